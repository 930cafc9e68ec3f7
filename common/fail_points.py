"""Named places where a test may have the process killed, to see what a power cut there leaves behind.

``BACKHAUL_FAIL_POINT=name`` or ``name:k`` sends this process SIGKILL when it reaches the point for the first or the
k-th time. Without the variable a point costs one comparison. The names are listed here so that the crash tests can
prove that each was hit.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys

NAMES = frozenset(
    {
        "append.before_commit",
        "append.after_commit",
        "push.before_ack",
        "push.before_filter_change",
        "push.after_filter_change",
        "push.in_past",
        "push.in_snapshots",
        "projection.in_transaction",
        "projection.handed_over",
        "projection.taken_over",
        "projection.accepted",
        "migration.in_transaction",
        "trim.before_commit",
        "subscription.in_transaction",
        "subscription.before_ack",
        "subscription.after_filter_applied",
        "subscription.after_backfill_done",
        "inbox.in_transaction",
        "serving.before_filter_change",
        "serving.after_filter_change",
        "serving.in_backfill",
        "serving.before_backfill_done",
        "serving.after_backfill_done",
        "serving.in_snapshots",
        "serving.in_replay",
    }
)

_name, _, _count = os.environ.get("BACKHAUL_FAIL_POINT", "").partition(":")
_passes_left = itertools.count(int(_count or 1) - 1, -1)
if _name and _name not in NAMES:
    sys.exit(f"BACKHAUL_FAIL_POINT names no fail point: {_name!r}; known: {', '.join(sorted(NAMES))}")


def fail_point(name: str) -> None:
    """Die here if the environment says so."""
    if name == _name and next(_passes_left) == 0:
        os.write(2, f"fail point hit: {name}\n".encode())
        os.kill(os.getpid(), signal.SIGKILL)


def is_aimed_at(name: str) -> bool:
    """Whether the environment names this point: then what passes it must not take a way without it."""
    return name == _name
