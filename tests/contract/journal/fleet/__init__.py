"""What every journal promises about the fleet's tables."""
