"""Files that only the service's own user may read: made with mode 0600 whatever the umask, never through a symbolic link."""

from __future__ import annotations

import os
from pathlib import Path

MODE = 0o600


def open_private(path: Path, *, is_new: bool) -> int:
    """A descriptor for reading and writing; the file is made when it is missing, and must be missing if `is_new`.

    A file that is there keeps its mode: an operator may have widened it. Raises OSError, FileExistsError among them.
    """
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
    if not is_new:
        try:
            return os.open(path, flags)
        except FileNotFoundError:
            pass
    descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, MODE)
    os.fchmod(descriptor, MODE)  # the umask may have taken the owner's own rights
    return descriptor
