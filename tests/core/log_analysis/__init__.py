"""The log analysis, line by line."""
