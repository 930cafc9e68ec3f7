"""Applications and their handlers."""
