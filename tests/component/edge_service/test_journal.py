"""The edge's journal as its settings name it."""

from __future__ import annotations

import random
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, cast

import pytest
import trio

from common.core.journal.url import JournalUrl
from common.journal.stores.journal import Journal
from common.runtime.environment import Environment
from common.runtime.settings.loading import load
from edge_service.service import serve
from edge_service.settings import EdgeSettings


class Opened(Exception):
    """What was opened, and with which cap."""


@pytest.mark.parametrize("name", ["postgres-edge.db", "postgresql.db", "edge.db", "./postgres/edge.db"])
async def test_a_file_has_its_cap_whatever_it_is_called(name: str) -> None:
    assert await opened({"EDGE_JOURNAL": name, "EDGE_JOURNAL_MAX_BYTES": "2MiB"}) == (name, 2 * 1024 * 1024)


async def test_a_database_has_none() -> None:
    assert await opened({"EDGE_JOURNAL": "POSTGRESQL://localhost/edge"}) == ("postgresql://localhost/edge", None)


async def opened(environ: Mapping[str, str]) -> tuple[str, int | None]:
    def open_journal(
        url: JournalUrl, *, max_bytes: int | None, notified: bool, migrates: bool = True
    ) -> AbstractAsyncContextManager[Journal]:
        raise Opened(str(url), max_bytes)

    nothing: Any = None
    environment = Environment(
        now_us=lambda: 0,
        new_id=lambda: "0" * 32,
        chance=random.Random(1),
        open_journal=open_journal,
        dial=nothing,
        serve_grpc=nothing,
        serve_http=nothing,
    )
    settings = load(EdgeSettings, "EDGE", environ={"EDGE_ID": "e1", "EDGE_CLOUD": "localhost"} | dict(environ)).settings
    with pytest.raises(Opened) as caught:
        await serve(settings, environment, trio.Event())
    return cast(tuple[str, int | None], caught.value.args)
