"""Both services in one process from a seed, with faults and checkers."""
