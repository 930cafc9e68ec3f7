"""Turning a journal into something useful: source, handler and offset, moved together."""
