"""Both ends of a push stream."""
