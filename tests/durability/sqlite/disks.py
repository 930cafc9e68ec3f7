"""Disks that misbehave, as layers under SQLite: one that forgets what was not synced, one that fails once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from types import TracebackType

import apsw

_names = (f"disk-{number}" for number in count(1))


class Disk(apsw.VFS):
    """SQLite's own file layer with hooks before writes and after syncs and deletions.

    Nothing is really synced: these tests end processes and files, not machines.
    """

    def __init__(self) -> None:
        self.name = next(_names)
        super().__init__(self.name, "")

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        return _File(self, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        super().xDelete(filename, syncdir)
        self.deleted(filename, durably=syncdir)

    def excepthook(
        self, etype: type[BaseException] | None, evalue: BaseException | None, etraceback: TracebackType | None
    ) -> bool:
        """A failure here is on purpose; SQLite is told, nobody else."""
        return True

    def about_to(self, what: str) -> None:
        """Called before each read, write and sync; raises to make it fail."""

    def about_to_write(self, filename: str, end: int) -> None:
        """Called before each write, with where it ends; raises to make it fail."""

    def synced(self, filename: str) -> None:
        """Called after each sync."""

    def deleted(self, filename: str, *, durably: bool) -> None:
        """Called after each deletion."""


class _File(apsw.VFSFile):
    def __init__(self, disk: Disk, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        super().__init__("", name, flags)
        self._disk = disk
        self._name = name.filename() if isinstance(name, apsw.URIFilename) else name

    def xRead(self, amount: int, offset: int) -> bytes:
        self._disk.about_to("read")
        return super().xRead(amount, offset)

    def xWrite(self, data: bytes | bytearray | memoryview, offset: int) -> None:
        self._disk.about_to("write")
        self._disk.about_to_write(self._name or "", offset + len(data))
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:
        self._disk.about_to("sync")
        if self._name:
            self._disk.synced(self._name)


class LossyDisk(Disk):
    """Keeps of each file what it held at its last sync; a deletion whose directory was not synced may come back."""

    def __init__(self) -> None:
        super().__init__()
        self._kept: dict[str, bytes] = {}

    def synced(self, filename: str) -> None:
        self._kept[filename] = Path(filename).read_bytes()

    def deleted(self, filename: str, *, durably: bool) -> None:
        if durably:
            self._kept.pop(filename, None)

    def after_power_cut(self, directory: Path) -> None:
        """Write what survives into another directory, under the same names."""
        directory.mkdir()
        for filename, content in self._kept.items():
            (directory / Path(filename).name).write_bytes(content)


class FailsOnce(Disk):
    """The n-th write or sync fails, all others work. ``failed`` says whether it came to that."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self._left = n
        self.failed = False

    def about_to(self, what: str) -> None:
        if what == "read":
            return
        self._left -= 1
        if self._left == 0:
            self.failed = True
            raise apsw.IOError(f"{what} fails on purpose")


class Full(Disk):
    """While ``is_full``, nothing more fits."""

    is_full = False

    def about_to(self, what: str) -> None:
        if self.is_full and what == "write":
            raise apsw.FullError("no space left on purpose")


class Dying(Disk):
    """While ``is_dead``, nothing can be read, written or synced."""

    is_dead = False

    def about_to(self, what: str) -> None:
        if self.is_dead:
            raise apsw.IOError(f"{what} fails on purpose")


@contextmanager
def in_use(disk: Disk) -> Iterator[Disk]:
    """The disk, known to SQLite by its name for as long as the block runs."""
    try:
        yield disk
    finally:
        disk.unregister()
