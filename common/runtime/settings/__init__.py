"""Settings: loading from file, environment and flags; values; the groups that services share."""
