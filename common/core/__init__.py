"""Decisions: values in, values out. No I/O, clock, chance, log or trio."""
