"""Both ends of a subscription, as tests drive them."""
