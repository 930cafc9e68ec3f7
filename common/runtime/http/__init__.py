"""The HTTP side of a service: server, routes, event streams."""
