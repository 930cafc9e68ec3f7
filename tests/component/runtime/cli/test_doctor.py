"""What the doctor thinks of disks, clocks, certificates and a service's own view of itself."""

from __future__ import annotations

import os
from collections import namedtuple
from pathlib import Path

import pytest

from common.core.journal.url import parse_journal_url
from common.runtime.cli.client import ServiceClient
from common.runtime.cli.doctor import command
from common.runtime.cli.doctor.finding import Verdict
from common.runtime.cli.doctor.local import dates, disk, measure_syncs, sync_time
from common.runtime.cli.doctor.peer import _clock
from tests.support.answering import AnsweringService

DAY_S = 86_400.0
Volume = namedtuple("Volume", "f_bavail f_frsize")


@pytest.mark.parametrize(
    ("free_bytes", "cap_bytes", "verdict"),
    [
        (10 * 2**30, 2**30, Verdict.OK),
        (2**29, 2**30, Verdict.WARNING),
        (2**25, 2**20, Verdict.FAILED),
        (2**28, None, Verdict.OK),
    ],
)
def test_a_volume_must_have_room_for_the_cap(
    free_bytes: int, cap_bytes: int | None, verdict: Verdict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _: Volume(free_bytes, 1))
    found = list(disk(parse_journal_url(str(tmp_path / "journal.db")), cap_bytes, lambda _: [0.001]))
    assert [(one.check, one.verdict) for one in found] == [("disk", verdict), ("fsync", Verdict.OK)]
    assert bool(found[0].advice) == (verdict is not Verdict.OK)


def test_a_folder_that_cannot_be_written_is_said_to_be(tmp_path: Path) -> None:
    def refuse(error: OSError) -> Verdict:
        def measure(_: Path) -> list[float]:
            raise error

        return list(disk(parse_journal_url(str(tmp_path / "j.db")), None, measure))[1].verdict

    assert refuse(PermissionError(13, "Permission denied")) is Verdict.SKIPPED
    assert refuse(OSError(30, "Read-only file system")) is Verdict.FAILED


def test_syncs_are_measured_and_leave_nothing(tmp_path: Path) -> None:
    seconds = measure_syncs(tmp_path)
    assert len(seconds) == 8
    assert list(tmp_path.iterdir()) == []
    assert sync_time("fsync", "x", [0.001] * 7 + [9.0]).verdict is Verdict.OK
    assert sync_time("fsync", "x", [0.2] * 8).verdict is Verdict.WARNING


@pytest.mark.parametrize(("days", "verdict"), [(100, Verdict.OK), (13, Verdict.WARNING), (-1, Verdict.FAILED)])
def test_a_certificate_is_good_for_two_weeks_at_least(days: float, verdict: Verdict) -> None:
    assert dates("tls", "it", 1e9 + days * DAY_S, 1e9).verdict is verdict


@pytest.mark.parametrize(("skew_s", "verdict"), [(-0.5, Verdict.OK), (-9.0, Verdict.WARNING), (61.0, Verdict.FAILED)])
def test_clocks_may_differ_a_little(skew_s: float, verdict: Verdict) -> None:
    assert _clock(skew_s, 0.01).verdict is verdict


def test_what_a_running_service_knows_of_itself_is_told(service: AnsweringService) -> None:
    service.answer("GET", "/readyz", {"ready": False, "reasons": {"journal": "cannot be read"}}, status=503)
    link = {
        "state": "offline",
        "for_s": 7.2,
        "last_code": "link.refused",
        "last_reason": "nothing listens",
        "last_hint": "",
    }
    service.answer("GET", "/status", {"link": link})
    client = ServiceClient("127.0.0.1", int(service.port), 10)
    found = list(command._service(client))
    client.close()
    assert [(one.check, one.verdict) for one in found] == [("service", Verdict.WARNING), ("link", Verdict.WARNING)]
    assert "journal: cannot be read" in found[0].text
    assert "link.refused: nothing listens" in found[1].text


@pytest.mark.parametrize(("used", "verdict"), [(790, Verdict.OK), (800, Verdict.WARNING)])
def test_a_journal_near_its_cap_is_told(used: int, verdict: Verdict, service: AnsweringService) -> None:
    service.answer("GET", "/readyz", {"ready": True, "reasons": {}})
    service.answer("GET", "/status", {"journal": {"used_bytes": used, "cap_bytes": 1_000}})
    client = ServiceClient("127.0.0.1", int(service.port), 10)
    found = list(command._service(client))
    client.close()
    assert [(one.check, one.verdict) for one in found] == [("service", Verdict.OK), ("journal", verdict)]
