"""The subscription state machines, one against the other."""
