"""Policy and local doors."""
