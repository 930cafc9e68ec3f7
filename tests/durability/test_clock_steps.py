"""Both services as they are composed, over real journals, under a wall clock that is set while they run.

A gateway without a battery boots in 1970: a request with a key is stored, the time server sets the clock, the request comes
again. What a clock says must not have made the key old.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import structlog
import trio

from cloud_service.service import serve as serve_cloud
from cloud_service.settings import CloudSettings
from common.core.addresses import Address, PeerAddress
from common.core.journal.append import Appended
from common.core.journal.url import JournalUrl, parse_journal_url
from common.journal.sqlite import open_sqlite_journal
from common.journal.stores.journal import Journal
from common.runtime.environment import real_environment, utc_now_us
from edge_service.service import serve as serve_edge
from edge_service.settings import EdgeSettings
from tests.support.builders import appended, ids, local

YEAR_S = 365 * 86_400
SERVICES = ("edge", "cloud")
REQUEST = local("A|1", append_id="k")


class Wall:
    """A wall clock that may be set."""

    def __init__(self, seconds: float) -> None:
        self.ahead_s = seconds - utc_now_us() / 1e6

    def __call__(self) -> int:
        return utc_now_us() + round(self.ahead_s * 1e6)


def settings_of(service: str, path: Path, keep_s: float) -> EdgeSettings | CloudSettings:
    given: dict[str, Any] = {
        "journal": parse_journal_url(str(path)),
        "idempotency_keep_s": keep_s,
        "grpc_port": 0,
        "http_port": 0,
        "insecure": True,
        "retention_interval_s": 0.05,
    }
    if service == "edge":
        return EdgeSettings(id="e1", cloud=PeerAddress((Address("127.0.0.1", 1),)), **given)
    return CloudSettings(retention_age_s=keep_s, **given)


@asynccontextmanager
async def serving(service: str, path: Path, wall: Wall, keep_s: float = 7 * 86_400) -> AsyncIterator[Journal]:
    settings = settings_of(service, path, keep_s)
    settings.check()
    opened: list[Journal] = []
    new_id = ids()

    @asynccontextmanager
    async def open_journal(
        url: JournalUrl, *, max_bytes: int | None, notified: bool, migrates: bool = True
    ) -> AsyncIterator[Journal]:
        async with open_sqlite_journal(
            url.target, now_us=wall, new_id=lambda: f"{path.name}-{next(new_id)}", max_bytes=max_bytes
        ) as journal:
            opened.append(journal)
            yield journal

    def opener(
        url: JournalUrl, *, max_bytes: int | None, notified: bool, migrates: bool = True
    ) -> AbstractAsyncContextManager[Journal]:
        return open_journal(url, max_bytes=max_bytes, notified=notified)

    async with real_environment() as world, trio.open_nursery() as nursery:
        environment, stop = replace(world, now_us=wall, open_journal=opener), trio.Event()
        serve = partial(serve_edge, settings) if isinstance(settings, EdgeSettings) else partial(serve_cloud, settings)
        await nursery.start(serve, environment, stop)
        yield opened[0]
        stop.set()


@pytest.mark.parametrize("service", SERVICES)
async def test_a_request_that_comes_again_after_the_clock_was_set_is_not_stored_twice(
    service: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.core.journal.ages._ADVANCE_MAX_S", 0.05)
    wall = Wall(0.0)
    with structlog.testing.capture_logs() as logs:
        async with serving(service, tmp_path / "journal.db", wall) as journal:
            await appended(journal, REQUEST)
            await trio.sleep(0.4)  # its age is noted
            for step_s in (55 * YEAR_S, -3 * YEAR_S):
                wall.ahead_s += step_s
                await trio.sleep(0.4)
                assert await appended(journal, REQUEST) == Appended(1, [1], repeated=True)
        wall.ahead_s += 20 * YEAR_S
        async with serving(service, tmp_path / "journal.db", wall) as journal:
            await trio.sleep(0.4)
            assert await appended(journal, REQUEST) == Appended(1, [1], repeated=True)
            assert (await journal.log.stats()).first_position == 1
    assert not [line for line in logs if line["log_level"] == "error"]


@pytest.mark.parametrize("service", SERVICES)
async def test_a_key_is_forgotten_when_its_time_has_passed_whatever_the_clock_says(
    service: str, tmp_path: Path
) -> None:
    wall = Wall(55.0 * YEAR_S)
    async with serving(service, tmp_path / "journal.db", wall, keep_s=1) as journal:
        await appended(journal, REQUEST)
        wall.ahead_s -= 50 * YEAR_S
        await trio.sleep(0.3)
        assert (await appended(journal, REQUEST)).repeated
        with trio.fail_after(20):
            is_known = True
            while is_known:
                await trio.sleep(0.2)
                is_known = (await appended(journal, REQUEST)).repeated
