"""Wake-ups of the firehose."""
