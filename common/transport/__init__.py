"""Moving batches between services: byte streams, the codec, and both ends of push."""
