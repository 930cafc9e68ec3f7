"""What edges push, with real processes."""
