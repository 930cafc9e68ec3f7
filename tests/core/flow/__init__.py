"""Windows and backoff."""
