"""Commands to entities."""
