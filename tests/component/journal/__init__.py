"""Group commit, head signals, threads and migrations, without a database."""
