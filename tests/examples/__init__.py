"""The demos' own parts."""
