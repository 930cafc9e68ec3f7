"""Entities that come into what an edge pushes, and go: the past that they bring, judged under every fault, from seeds."""
