"""Fixtures of the contract suites: every test that asks for them runs once on every storage."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from common.journal.interface import Journal
from tests.contract.journals import Storage, open_storage

STORAGES = ("memory", "sqlite", "postgres")


@pytest.fixture(params=STORAGES)
def storage_name(request: pytest.FixtureRequest) -> str:
    """Which storage this run of the test is about."""
    name: str = request.param
    return name


@pytest.fixture
def storage_url(storage_name: str, request: pytest.FixtureRequest) -> str:
    """An empty database's URL where the storage needs a server; a test that needs none starts none."""
    url: str = request.getfixturevalue("postgres_url") if storage_name == "postgres" else ""
    return url


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
