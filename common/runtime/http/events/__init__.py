"""Reading events over HTTP: which are asked for, and in which pages they are answered."""
