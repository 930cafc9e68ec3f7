"""Bytes of messages: golden, damaged, against the reference."""
