"""PostgreSQL: real servers, restarts, races, plans."""
