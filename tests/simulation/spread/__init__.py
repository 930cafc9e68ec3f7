"""Nodes that share the ranges of projections, reduced to that: members, assignment, hand-overs, and a failing database."""
