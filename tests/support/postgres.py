"""The PostgreSQL that tests run against: the one named in BACKHAUL_TEST_POSTGRES, else one they start.

It is always a real one that syncs its commits; the fixtures of tests/conftest.py fail, never skip, when it
cannot be had. The variable holds the URL of a role that may create databases; tests touch only their own.
"""

import contextlib
import os
from collections.abc import Iterator

from examples.support.postgres import Databases, postgres_server

URL_VARIABLE = "BACKHAUL_TEST_POSTGRES"


@contextlib.contextmanager
def postgres_for_tests() -> Iterator[Databases]:
    """A durable server to create databases on. Raises `PostgresUnavailable` with the reason."""
    url = os.environ.get(URL_VARIABLE)
    if url:
        databases = Databases(url)
        databases.require_durable()
        yield databases
    else:
        with postgres_server() as server:
            server.require_durable()
            yield server
