"""A stage for each test, and relays to put between its services."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.lines import Relays, open_relays
from tests.e2e.processes import Stage, open_stage


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """Where the services of this test run; all are gone afterwards."""
    with open_stage(tmp_path) as stage:
        yield stage


@pytest.fixture
def relays() -> Iterator[Relays]:
    """Lines that can be slowed, broken and held."""
    with open_relays() as relays:
        yield relays
