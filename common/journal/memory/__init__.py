"""The journal in memory: the reference that the others are compared with."""
