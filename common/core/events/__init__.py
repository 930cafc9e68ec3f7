"""Events: batches of columns, ids and slices, rules of acceptance, typed payloads, transformations."""
