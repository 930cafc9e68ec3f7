"""Flow control: windows, backoff, and the messages that both protocols share."""
