"""`doctor`: what stands between this service and its work, step by step from the name of the peer to its answer."""
