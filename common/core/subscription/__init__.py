"""The subscription protocol's state machines: source, consumer, replay, withheld ranges."""
