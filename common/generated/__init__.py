"""betterproto messages for protos/, written by `make proto`, never edited."""
