"""What message streams promise, on every carrier, and what only sockets can show."""
