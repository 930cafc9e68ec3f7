"""How a range comes to where it reads the log: over snapshots, deleted numbers, or from a place in it."""
