"""Entities over the memory journal."""
