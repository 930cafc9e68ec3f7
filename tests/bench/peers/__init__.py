"""Ours beside NATS and Mosquitto, in one run and in turns, loaded by one client language."""
