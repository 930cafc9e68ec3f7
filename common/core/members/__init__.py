"""The nodes that share one journal: which are alive, and which of them runs which ranges. Pure decisions."""
