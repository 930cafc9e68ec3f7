"""The speed and memory tables of `make bench`."""
