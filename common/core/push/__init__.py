"""The push protocol's state machines: producer (edge), receiver (cloud), filter transitions."""
