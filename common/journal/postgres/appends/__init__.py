"""Appending: a group of requests as the call of a server function, and its answer as outcomes."""
