"""Pure decisions: tables and properties, no trio."""
