"""Admission, history, snapshots, retention, recent commits, slice ranges."""
