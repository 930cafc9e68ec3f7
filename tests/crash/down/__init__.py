"""Kills on the way down."""
