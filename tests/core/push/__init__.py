"""The push state machines, one against the other."""
