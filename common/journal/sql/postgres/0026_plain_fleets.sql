-- Nothing changes in the tables: append_plain takes groups of several origins, tags and append ids.
SELECT 1;
