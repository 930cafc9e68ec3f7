"""Projections, on every storage."""
