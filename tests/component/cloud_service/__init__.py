"""The parts of the cloud service."""
