"""The firehose's decisions: the ring, a subscriber's cursor, fan-out, shared catch-ups, demotion."""
