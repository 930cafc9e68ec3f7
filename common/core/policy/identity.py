"""A peer's id by its certificate: which names of a subject alternative name carry one, and that there is only one.

A name is the DNS or URI text of a subject alternative name; common names, addresses and mail names are not asked for.
A pattern is text with one ``{id}`` in it, for example ``spiffe://fleet/edge/{id}``. Without ``://`` it is for DNS names (and
names of URIs without a scheme), which cannot contain ``://``, so that neither kind passes for the other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from common.core.errors import BackhaulError, ErrorKind

PLAIN_NAME: Final = "{id}"
ID_PATTERN: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
_SHOWN_NAMES: Final = 5


def pattern_problem(pattern: str) -> str:
    """What is wrong with a pattern for names, or nothing."""
    if pattern.count(PLAIN_NAME) != 1:
        return f"{pattern!r} must have {PLAIN_NAME} in it, once"
    if re.search(r"[^A-Za-z0-9._~:/?#@%+=&-]", pattern.replace(PLAIN_NAME, "")):
        return f"{pattern!r} must be the characters of DNS names and URIs beside {PLAIN_NAME}, no wildcards"
    return ""


@dataclass(frozen=True, slots=True)
class IdentityRule:
    """Patterns for the names that carry an id, each tried on each name. `one_id`: more than one id is none.

    Raises ValueError for what `pattern_problem` names.
    """

    patterns: tuple[str, ...] = (PLAIN_NAME,)
    one_id: bool = True
    _compiled: tuple[re.Pattern[str], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for pattern in self.patterns:
            if problem := pattern_problem(pattern):
                raise ValueError(problem)
        compiled = tuple(
            re.compile(f"({ID_PATTERN})".join(map(re.escape, pattern.split(PLAIN_NAME)))) for pattern in self.patterns
        )
        object.__setattr__(self, "_compiled", compiled)

    def identify(self, names: Iterable[str]) -> Identity:
        """The ids that these names carry, in their order, each once."""
        seen = tuple(names)
        matches = (pattern.fullmatch(name) for name in seen for pattern in self._compiled)
        ids = tuple(dict.fromkeys(match[1] for match in matches if match))
        return Identity(ids, seen, self)


@dataclass(frozen=True, slots=True)
class Identity:
    """The ids a certificate vouches for (several at most where the rule allows it), and the names they were read from."""

    found: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    rule: IdentityRule = field(default_factory=IdentityRule)

    @property
    def ids(self) -> tuple[str, ...]:
        """Empty where there is none, or more than there may be."""
        return () if self.rule.one_id and len(self.found) > 1 else self.found

    def must_be(self, name: str, what: str) -> None:
        """Refuse a peer that its certificate does not name, or that it names beside others.

        Raises BackhaulError `auth.identity_mismatch`, `auth.identity_ambiguous`.
        """
        if name in self.ids:
            return
        if self.found and not self.ids:
            raise BackhaulError(
                "auth.identity_ambiguous",
                f"the certificate carries {len(self.found)} ids, of which {name!r} must be the only one:"
                f" {_shown(self.found)}",
                "issue a certificate with one id, narrow tls_identities to the names that are ids, or set tls_many_ids",
                kind=ErrorKind.FORBIDDEN,
            )
        raise BackhaulError(
            "auth.identity_mismatch",
            f"the certificate does not name the {what} id {name!r}; it has {_shown(self.names) or 'no DNS or URI name'}",
            f"give the {what} a certificate whose subject alternative name is its id as {_shown(self.rule.patterns)}",
            kind=ErrorKind.FORBIDDEN,
        )


def _shown(names: tuple[str, ...]) -> str:
    shown = ", ".join(name[:100] for name in names[:_SHOWN_NAMES])
    return f"{shown} and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else shown
