"""Killing processes at fail points and at random, then comparing what is left."""
