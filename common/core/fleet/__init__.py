"""What is known of each edge, over all nodes: facts, their history, and how they are shown. Pure."""
