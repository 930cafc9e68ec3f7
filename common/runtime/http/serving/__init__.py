"""HTTP/1.1 for ASGI applications on trio: listening, connections, and how they end."""
