"""Tests, in rings: core, contract, shell, simulation, durability, e2e; bench and crash stand beside them."""
