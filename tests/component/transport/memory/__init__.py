"""The simulated line."""
