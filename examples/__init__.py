"""Programs that show the product; run from a clone, not installed."""
