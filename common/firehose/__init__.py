"""One reader of the journal for many cursors: a ring of recent events, and catch-ups for those behind it."""
