"""What a storage implements: one protocol for each part of a journal."""
