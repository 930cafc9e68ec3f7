"""Filters: criteria, topics, predicates over a batch, the index of many filters, and selections of a log."""
