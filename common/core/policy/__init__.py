"""Policy: which requests a local door lets in, and what a peer may write, read and command."""
