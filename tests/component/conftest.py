"""Fixtures of this ring."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.support.answering import AnsweringService


@pytest.fixture
def service() -> Iterator[AnsweringService]:
    made = AnsweringService()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def no_settings_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("EDGE_", "CLOUD_")):
            monkeypatch.delenv(name)
