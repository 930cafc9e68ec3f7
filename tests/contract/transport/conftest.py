"""Fixtures of the stream suites."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from common import border
from tests.contract.transport.carriers import Carrier, grpc_carrier, memory_carrier


@pytest.fixture(params=["memory", "grpc"])
async def carrier(request: pytest.FixtureRequest) -> AsyncIterator[Carrier]:
    if request.param == "memory":
        yield memory_carrier()
    else:
        async with border.open_loop():
            yield grpc_carrier()


@pytest.fixture
async def loop() -> AsyncIterator[None]:
    """Tests name it: what it sets in their context reaches only those that do."""
    async with border.open_loop():
        yield
