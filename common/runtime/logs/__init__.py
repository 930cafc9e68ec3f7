"""Logging: set-up, fields, rate limits."""
