"""Entities and states, on every storage."""
