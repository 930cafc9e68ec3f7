"""The ring, fan-out, catch-up and demotion."""
