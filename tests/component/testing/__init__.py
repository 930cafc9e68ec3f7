"""The kit that applications are tested with."""
