"""Generated message classes, a module a file of protos/ (.ci/wire_messages.py)."""
