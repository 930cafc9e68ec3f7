"""`support-bundle`: one archive with what whoever helps will ask for, without secrets and payloads.

Each part stands for itself: what cannot be had is named in `missing.txt`. The file is made with mode 0600 and replaces none.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, cast

import orjson

from common.core.errors import BackhaulError
from common.runtime.cli.commands import Question
from common.runtime.cli.doctor.command import examine, vars_of
from common.runtime.cli.doctor.finding import report
from common.runtime.cli.doctor.peer import DoctorPeer
from common.runtime.cli.output import say
from common.runtime.cli.support.scrub import Scrubber, secrets_of
from common.runtime.environment import utc_now_us
from common.runtime.settings.loading import describe
from common.runtime.settings.streams import StreamSettings

LOG_MAX_BYTES: Final = 8 * 1024 * 1024
_PAGES: Final = {
    "status": "/status",
    "ready": "/readyz",
    "parked": "/v1/parked?max=200",
    "projections": "/v1/projections",
    "subscriptions": "/v1/subscriptions",
}
_ABOUT: Final = """\
What is in this archive, made by `support-bundle`:

config.json     every setting with its origin; secrets are ***
doctor.txt      what `doctor` found, with versions; doctor.json the same for programs
status.json … the service's own answers, as far as it answered
metrics.txt     a scrape of /metrics
log.jsonl       the end of the log, if a file was named
missing.txt     what could not be had, and why

Known secrets, what looks like one, and payloads are replaced by ***. Ids of edges, entities and streams, host names and
addresses are in it: look through it before it leaves your hands.
"""


def run_bundle(question: Question, peers: Sequence[DoctorPeer], pages: dict[str, str]) -> int:
    """Write the archive and say where it is."""
    settings = cast(StreamSettings, question.settings)
    scrubber = Scrubber(secrets_of(settings))
    now_us = utc_now_us()
    path = Path(question.args.file or f"backhaul-support-{now_us // 1_000_000}.tar.gz")
    missing: list[str] = []
    with _new_file(path) as file, tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, content in _parts(question, settings, peers, _PAGES | pages, scrubber, missing):
            _add(archive, name, content, now_us)
        _add(archive, "missing.txt", "".join(f"{scrubber.text(line)}\n" for line in missing), now_us)
    say(f"{path} ({path.stat().st_size} bytes); look through it before it leaves your hands")
    for line in missing:
        say(f"  without {line}")
    return 0


def _new_file(path: Path) -> io.BufferedWriter:
    try:
        return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
    except OSError as error:
        raise BackhaulError("cli.file_unwritable", f"{path}: {error.strerror}", "name another file") from error


def _parts(
    question: Question,
    settings: StreamSettings,
    peers: Sequence[DoctorPeer],
    pages: dict[str, str],
    scrubber: Scrubber,
    missing: list[str],
) -> Iterator[tuple[str, str]]:
    yield "README.txt", _ABOUT
    config = {line.key: {"value": line.value, "origin": line.origin} for line in describe(question.loaded)}
    yield "config.json", _json(scrubber.value(config))
    findings = examine(settings, question.client, peers)
    yield "doctor.txt", scrubber.text(report(findings)) + "\n"
    yield "doctor.json", _json(scrubber.value([vars_of(one) for one in findings]))
    asked: dict[str, Callable[[], str]] = {
        f"{name}.json": lambda page=page: _json(scrubber.value(question.client.ask("GET", page).body))  # type: ignore[misc]
        for name, page in pages.items()
    }
    asked["metrics.txt"] = lambda: scrubber.text(question.client.text("/metrics"))
    if question.args.logs:
        asked["log.jsonl"] = lambda: scrubber.lines(_end_of(Path(question.args.logs)))
    for name, get in asked.items():
        try:
            content = get()
        except BackhaulError as error:
            missing.append(f"{name}: {error.message} ({error.code})")
        else:
            yield name, content


def _end_of(path: Path) -> str:
    """The last bytes of a log, from the beginning of a line."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - LOG_MAX_BYTES))
            data = file.read(LOG_MAX_BYTES)
    except OSError as error:
        raise BackhaulError("cli.file_unreadable", f"{path}: {error.strerror}", "name a file of log lines") from error
    if size > LOG_MAX_BYTES:
        data = data.partition(b"\n")[2]
    return data.decode(errors="replace")


def _json(value: Any) -> str:  # noqa: ANN401  whatever was answered
    return orjson.dumps(value, option=orjson.OPT_INDENT_2, default=str).decode() + "\n"


def _add(archive: tarfile.TarFile, name: str, content: str, now_us: int) -> None:
    data = content.encode()
    entry = tarfile.TarInfo(f"backhaul-support/{name}")
    entry.size, entry.mode, entry.mtime = len(data), 0o600, now_us // 1_000_000
    archive.addfile(entry, io.BytesIO(data))
