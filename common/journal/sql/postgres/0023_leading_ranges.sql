-- Nothing changes in the tables: append_batch takes stated ranges that lead to their entities' events in sets.
SELECT 1;
