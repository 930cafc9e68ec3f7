"""Fixtures for every ring. A test that needs no PostgreSQL starts none.

Async tests are trio's (`trio_mode`). Ask for `autojump_clock` (from pytest-trio) where all I/O is in memory:
sleeping then costs nothing. Never with sockets, threads or processes, whose time the mock clock cannot know.
"""

import os
import socket
from collections.abc import Iterator

import pytest
from hypothesis import settings

from examples.support.postgres import Databases, PostgresServer, PostgresUnavailable, postgres_server
from tests.support.postgres import postgres_for_tests

# Contexts of whoever runs the tests are none of theirs.
os.environ["XDG_CONFIG_HOME"] = "/nonexistent"

# The same examples in every run: a change is judged by what it changes, not by luck. No deadline: machines are shared.
# A search for new cases is `make test ARGS=--hypothesis-profile=default`.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Databases]:
    """The session's PostgreSQL, shared: create databases on it, never stop it."""
    try:
        with postgres_for_tests() as databases:
            yield databases
    except PostgresUnavailable as reason:
        pytest.fail(f"no durable PostgreSQL for the tests: {reason}", pytrace=False)


@pytest.fixture
def postgres_url(postgres: Databases) -> Iterator[str]:
    """The URL of an empty database for this test alone."""
    with postgres.fresh() as url:
        yield url


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A server for this test alone, to be crashed, stopped and started at will (about a second to make)."""
    with postgres_server() as server:
        server.require_durable()
        yield server


@pytest.fixture
def closed_port() -> str:
    """A port nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])
