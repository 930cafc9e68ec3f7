"""From the cloud's journal to consumers: fan-out, filters, catch-up, idle streams."""
