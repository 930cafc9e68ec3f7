"""Projections over the memory journal."""
