"""Real processes, real sockets, real containers."""
