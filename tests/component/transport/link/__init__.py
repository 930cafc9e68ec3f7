"""Live streams of a service."""
