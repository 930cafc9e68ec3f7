"""The HTTP routes over each storage."""
