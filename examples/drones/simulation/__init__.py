"""Drones that fly and people who order, beside the sample's services: `python -m examples.drones`.

They speak HTTP as any program would. Nothing here is part of the applications.
"""
