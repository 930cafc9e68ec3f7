"""Applications that tests plug into a service."""
