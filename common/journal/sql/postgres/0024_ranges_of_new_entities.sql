-- Nothing changes in the tables: append_batch looks no head up for ranges of entities that are all new.
SELECT 1;
