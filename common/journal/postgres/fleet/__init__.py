"""The fleet's state in a database."""
