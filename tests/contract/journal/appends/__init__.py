"""Appending: single requests, and groups of several origins."""
