"""Lines of logs out of files and standard input, in the order of their time as far as a bounded buffer can see."""

from __future__ import annotations

import gzip
import heapq
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, Final, cast

from common.core.errors import BackhaulError
from common.core.log_analysis.record import LINE_MAX_CHARS, LogRecord, parse_line

# Lines of several services that one tool has merged come a little out of order; so many are looked at together.
REORDER_MAX: Final = 2_000
_POLL_S: Final = 0.3


def records(paths: list[str], seen: Callable[[bool], None]) -> Iterator[LogRecord]:
    """The records of all files together, by time. `-` is standard input. `seen` hears of each line if it was one of ours.

    Raises BackhaulError `cli.file_unreadable`.
    """
    with ExitStack() as stack:
        streams = [_ordered(_parsed(stack.enter_context(_opened(path)), seen)) for path in paths]
        yield from heapq.merge(*streams, key=_at_us)


def followed(paths: list[str], seen: Callable[[bool], None], pause: Callable[[float], None]) -> Iterator[LogRecord]:
    """As `records`, then what is added to the files, for ever; standard input is read to its end, as it comes.

    A file that is replaced or cut short (log rotation) is read from its beginning.
    """
    if paths == ["-"]:
        with _opened("-") as source:
            yield from _parsed(source, seen)
        return
    tails = [_Tail(path) for path in paths]
    while True:
        fresh = [record for tail in tails for record in _parsed_lines(tail.lines(), seen)]
        yield from sorted(fresh, key=_at_us)
        if not fresh:
            pause(_POLL_S)


class _Tail:
    """One file that grows. What has no line end yet is left for the next look."""

    def __init__(self, path: str) -> None:
        if path == "-":
            raise BackhaulError("cli.usage", "standard input cannot be followed together with files", "use one of them")
        self._path = path
        self._at = 0
        self._inode = 0

    def lines(self) -> Iterator[bytes]:
        with _opened(self._path) as source:
            found = Path(self._path).stat()
            if found.st_ino != self._inode or found.st_size < self._at:
                self._at, self._inode = 0, found.st_ino
            source.seek(self._at)
            for line in source:
                if not line.endswith(b"\n"):
                    return
                self._at += len(line)
                yield line


def _opened(path: str) -> BinaryIO:
    if path == "-":
        return sys.stdin.buffer
    try:
        return cast(BinaryIO, gzip.open(path)) if path.endswith(".gz") else Path(path).open("rb")
    except OSError as error:
        raise BackhaulError(
            "cli.file_unreadable", f"{path}: {error.strerror}", "name a file of log lines, or -"
        ) from error


def _parsed(source: BinaryIO, seen: Callable[[bool], None]) -> Iterator[LogRecord]:
    return _parsed_lines(iter(lambda: source.readline(LINE_MAX_CHARS), b""), seen)


def _parsed_lines(lines: Iterator[bytes], seen: Callable[[bool], None]) -> Iterator[LogRecord]:
    for line in lines:
        record = parse_line(line.decode(errors="replace"))
        seen(record is not None)
        if record is not None:
            yield record


def _ordered(source: Iterator[LogRecord]) -> Iterator[LogRecord]:
    waiting: list[tuple[int, int, LogRecord]] = []
    for number, record in enumerate(source):
        heapq.heappush(waiting, (record.at_us, number, record))
        if len(waiting) > REORDER_MAX:
            yield heapq.heappop(waiting)[2]
    while waiting:
        yield heapq.heappop(waiting)[2]


def _at_us(record: LogRecord) -> int:
    return record.at_us
