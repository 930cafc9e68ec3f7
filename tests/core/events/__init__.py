"""Event batches, ids, rules, types and transformations."""
