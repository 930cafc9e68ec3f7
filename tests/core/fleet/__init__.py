"""The fleet, as values."""
