"""Room on the volume of a journal file."""

from __future__ import annotations

import os

from common.core.journal.url import JournalUrl


def volume_free_bytes(url: JournalUrl) -> int | None:
    """Bytes that this process may still write there; None for a database elsewhere, or when the volume does not say."""
    if not url.is_file:
        return None
    try:
        found = os.statvfs(os.path.dirname(url.target) or ".")
    except OSError:
        return None
    return found.f_bavail * found.f_frsize
