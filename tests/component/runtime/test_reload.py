"""What is read again: part by part, and what cannot be read keeps what it has."""

from __future__ import annotations

from structlog.testing import capture_logs

from common.core.errors import ConfigurationError
from common.runtime.reload import Reloads


def test_a_part_that_cannot_be_read_keeps_none_of_the_others() -> None:
    def unreadable() -> str:
        raise ConfigurationError("tls.files_unreadable", "no certificate", "put it there")

    reloads = Reloads()
    reloads.add("settings", lambda: "log_level = debug")
    reloads.add("certificates", unreadable)
    reloads.add("policy", lambda: "12 rules")
    with capture_logs() as lines:
        reloads.run()
    assert [(line["event"], line.get("part"), line.get("parts")) for line in lines] == [
        ("config.reload_failed", "certificates", None),
        ("config.reloaded", None, {"settings": "log_level = debug", "policy": "12 rules"}),
    ]
