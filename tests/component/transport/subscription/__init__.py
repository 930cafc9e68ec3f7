"""Subscription streams over the simulated line."""
