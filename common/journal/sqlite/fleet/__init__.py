"""The fleet's state in a file."""
