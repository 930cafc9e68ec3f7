"""Calls over gRPC, from the bytes of a connection to the methods."""
