"""What an application runs by itself, over every storage."""
