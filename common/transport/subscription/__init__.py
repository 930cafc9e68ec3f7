"""Both ends of a subscription stream."""
