"""Notices a clock that was, or is, wrong: order never depends on it, people's reading of the times does."""

from __future__ import annotations

import structlog

_log = structlog.get_logger()

_AHEAD_S = 60.0


def warn_if_ahead(head_timestamp_us: int, now_us: int) -> None:
    """Log ``clock.ahead`` when the log's order time (UTC microseconds) has run away from the clock.

    It happens when the clock stepped back, or once stood in the future: order times go on from the last one, so they
    stay wrong until the clock has caught up. Lag uses the storing time, and retention elapsed time (``age_keeper``).
    """
    ahead_s = (head_timestamp_us - now_us) / 1e6
    if ahead_s > _AHEAD_S:
        _log.warning("clock.ahead", ahead_s=round(ahead_s, 1), repeat_key="")
