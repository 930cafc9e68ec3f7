"""Audit lines: what an operator did, and what a policy refused. Written whatever the log level.

`audit.action` is never rate limited. `audit.refused` is written once a minute for the same peer, rule and code, since a
peer that was refused tries again; the next one carries the count.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import structlog

# A logger of its own class: the level that an operator sets at run time does not reach it.
_log: structlog.typing.FilteringBoundLogger = structlog.wrap_logger(
    None, wrapper_class=structlog.make_filtering_bound_logger(0)
)


def action(*, who: str, source: str, what: str, asked: Mapping[str, Any], result: str) -> None:
    """A request that can change something was answered, or cut. `asked`: the body's members."""
    _log.warning("audit.action", who=who, source=source, what=what, asked=asked, result=result)


def refused(*, who: str, source: str, what: str, rule: str, result: str) -> None:
    """A peer, or a local client, asked for what it has no right to. `result` is the code it got."""
    _log.warning(
        "audit.refused",
        who=who,
        source=source,
        what=what,
        rule=rule,
        result=result,
        repeat_key=f"{who} {rule} {result}",
    )
