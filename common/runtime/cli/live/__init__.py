"""`top`: a service, or the fleet, as it changes."""
