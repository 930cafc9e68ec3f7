"""Lossy disks, kill -9, a restarted PostgreSQL."""
