"""Secrets taken out of text that leaves the machine: those that are known by value, and what looks like one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, Final
from urllib.parse import quote, unquote, urlsplit

from common.core.errors import ConfigurationError
from common.core.journal.url import REDACTED, redact_within
from common.runtime.logs.fields import is_withheld
from common.runtime.settings.doors import read_token
from common.runtime.settings.loading import fields_of
from common.runtime.settings.service import ServiceSettings

_PRIVATE_KEY: Final = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL
)
_BEARER: Final = re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]+")
_ASSIGNED: Final = re.compile(
    r"(?i)\b([\w.-]*(?:passw(?:or)?d|secret|token|api_?key|authorization|cookie)[\w.-]*[\"']?\s*[=:]\s*)"
    r"(?!\s|\d+(?:\.\d+)?\b)(?:\"[^\"]*\"|'[^']*'|[^\s,;&}\]]+)"
)
# A shorter one would be found within other words.
_SHORT: Final = 6


def secrets_of(settings: ServiceSettings) -> Iterator[str]:
    """Every secret that the settings hold or name: passwords of the journal, secret settings, tokens in files."""
    journal = getattr(settings, "journal", None)
    if journal is not None and not journal.is_file and (password := urlsplit(journal.target).password):
        yield password
        yield unquote(password)
    for field in fields_of(type(settings)):
        value = getattr(settings, field.name)
        if field.metadata["secrecy"] == "secret" and isinstance(value, str):
            yield value
    for path in set(settings.token_files.values()):
        try:
            yield read_token(path)
        except ConfigurationError:
            continue


class Scrubber:
    """Knows some secrets by value."""

    def __init__(self, secrets: Iterable[str]) -> None:
        forms = {
            form for secret in secrets if secret for form in (secret, quote(secret, safe=""), json.dumps(secret)[1:-1])
        }
        written = [
            re.escape(form) if len(form) >= _SHORT else rf"(?<!\w){re.escape(form)}(?!\w)"
            for form in sorted(forms, key=len, reverse=True)
        ]
        self._known = re.compile("|".join(written)) if written else None

    def text(self, text: str) -> str:
        """The text with every secret replaced; a private key also where it is cut off."""
        text = _PRIVATE_KEY.sub(REDACTED, text)
        if self._known is not None:
            text = self._known.sub(REDACTED, text)
        text = _BEARER.sub(rf"\1 {REDACTED}", redact_within(text))
        return _ASSIGNED.sub(rf"\1{REDACTED}", text)

    def value(self, value: Any) -> Any:  # noqa: ANN401  whatever JSON holds
        """The same for a value of JSON; members whose name says that they are secret, and payloads, are replaced whole."""
        if isinstance(value, dict):
            return {
                self.text(name): REDACTED
                if is_withheld(name) and not isinstance(one, int | float | None)
                else self.value(one)
                for name, one in value.items()
            }
        if isinstance(value, list):
            return [self.value(one) for one in value]
        return self.text(value) if isinstance(value, str) else value

    def lines(self, text: str) -> str:
        """The same for a log: each line of JSON as a value, each other one as text."""
        found = []
        for line in _PRIVATE_KEY.sub(REDACTED, text).splitlines():
            try:
                value = json.loads(line)
            except ValueError:
                found.append(self.text(line))
            else:
                found.append(json.dumps(self.value(value), ensure_ascii=False))
        return "".join(f"{line}\n" for line in found)
