-- Nothing changes in the tables: append_batch cuts the range of an event that was stated as gone and comes after all.
SELECT 1;
