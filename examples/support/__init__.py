"""What examples, benchmarks and tests need around the product."""
