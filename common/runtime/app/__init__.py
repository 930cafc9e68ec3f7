"""A user's application: what it registers, how a service runs it."""
