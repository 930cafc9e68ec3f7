"""Pasts on the way up: entities come into what the cloud asks an edge for, and either side dies while they are brought."""
