"""Intake, metrics, the service's skeleton."""
