"""The carrier in memory: streams over a simulated line."""
