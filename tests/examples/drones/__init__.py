"""The drone sample's own tests, written as a user of the product writes them: with `common.testing` and nothing else."""
