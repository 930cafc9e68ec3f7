"""What nodes over one database know of each other: hints of commits, and members."""
