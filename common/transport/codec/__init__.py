"""Messages to bytes and back; the only package that sees generated messages."""
