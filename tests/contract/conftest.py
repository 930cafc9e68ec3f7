"""Fixtures of the contract suites: every test that asks for them runs once on every storage."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from common.journal.stores.journal import Journal
from examples.support.postgres import Databases
from tests.contract.emptied import EmptiedDatabase
from tests.contract.journals import Storage, open_storage
from tests.support.builders import Origin

STORAGES = ("memory", "sqlite", "postgres")


@pytest.fixture(params=STORAGES)
def storage_name(request: pytest.FixtureRequest) -> str:
    """Which storage this run of the test is about."""
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def emptied_postgres(postgres: Databases) -> Iterator[EmptiedDatabase]:
    """Gives the URL of one database, emptied each time: a thousand tests need not make a thousand databases."""
    with postgres.fresh() as url:
        yield EmptiedDatabase(postgres, url)


@pytest.fixture
def storage_url(storage_name: str, request: pytest.FixtureRequest) -> str:
    """An empty database's URL where the storage needs a server; a test that needs none starts none."""
    if storage_name != "postgres":
        return ""
    empty: EmptiedDatabase = request.getfixturevalue("emptied_postgres")
    return empty()


@pytest.fixture
async def storage(storage_name: str, storage_url: str, tmp_path: Path) -> AsyncIterator[Storage]:
    """A fresh storage that no journal has been opened on."""
    async with open_storage(storage_name, tmp_path, storage_url) as opened:
        yield opened


@pytest.fixture
async def journal(storage: Storage) -> AsyncIterator[Journal]:
    """A journal on a fresh storage."""
    async with storage.open() as opened:
        yield opened


@pytest.fixture
async def edge(journal: Journal) -> Origin:
    """An origin of which two events of one entity are stored."""
    edge = Origin()
    await edge.dial(journal)
    await edge.push(journal, ("A|1", 1), ("A|1", 2))
    return edge
