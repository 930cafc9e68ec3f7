"""Criteria, topics, predicates, the index and selections."""
