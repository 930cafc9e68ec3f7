"""Tasks and streams under a mock clock, all I/O in memory."""
