"""The firehose, on every storage."""
