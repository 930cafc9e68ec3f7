"""The command line: parsing, questions to a running service, output."""
