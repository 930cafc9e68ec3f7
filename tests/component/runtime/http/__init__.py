"""Every route, and the server under it."""
