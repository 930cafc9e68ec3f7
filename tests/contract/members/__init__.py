"""A journal's stores, on every storage."""
