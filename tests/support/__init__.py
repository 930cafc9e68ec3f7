"""Builders, fakes, checkers and servers that tests share; typed and linted like the product."""
