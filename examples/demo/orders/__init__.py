"""The way down in the demo: work orders for the gateways, filters that change, and what proves them."""
