"""What an operator sees of real services: logs, metrics, the fleet."""
