"""Push streams over the simulated line."""
