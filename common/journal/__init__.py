"""Storing and reading events, offsets and origins: one interface, three implementations."""
