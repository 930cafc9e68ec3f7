"""SQLite: lossy disks, power cuts, old files."""
