"""Patterns of a policy: texts in which ``*`` stands for any characters and ``{id}`` for the peer's id.

Matching is linear in the text, whatever the pattern: the texts are peers'. An id is put in as it is, never as pattern,
and only one that cannot reach into another's names: no ``/``, nothing invisible.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

ID: Final = "{id}"
PLAIN_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, slots=True)
class Pattern:
    """A pattern, cut at its stars."""

    parts: tuple[str, ...]

    @classmethod
    def of(cls, text: str) -> Pattern:
        """The pattern that this text is."""
        return cls(tuple(text.split("*")))

    @property
    def is_exact(self) -> bool:
        """Whether it stands for one text alone."""
        return len(self.parts) == 1

    def filled(self, peer_id: str) -> Pattern | None:
        """The pattern with the peer's id put in; None when it needs one and this id cannot be put in."""
        if not any(ID in part for part in self.parts):
            return self
        if PLAIN_ID.fullmatch(peer_id) is None:
            return None
        return Pattern(tuple(part.replace(ID, peer_id) for part in self.parts))

    def matches(self, text: str) -> bool:
        """Whether the whole text fits."""
        if len(self.parts) == 1:
            return text == self.parts[0]
        first, last = self.parts[0], self.parts[-1]
        if len(text) < len(first) + len(last) or not text.startswith(first) or not text.endswith(last):
            return False
        if len(self.parts) == 2:
            return True
        at, end = len(first), len(text) - len(last)
        for part in self.parts[1:-1]:
            at = text.find(part, at, end)
            if at < 0:
                return False
            at += len(part)
        return True

    def expression(self, any_text: str) -> str | None:
        """The regular expression in which ``any_text`` stands for a star; None with several: it would not be linear."""
        return any_text.join(map(re.escape, self.parts)) if len(self.parts) <= 2 else None

    def __str__(self) -> str:
        return "*".join(self.parts)
