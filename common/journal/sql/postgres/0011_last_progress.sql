-- Nothing changes in the tables: append_batch keeps when an origin was last heard of with the place it moves.
SELECT 1;
