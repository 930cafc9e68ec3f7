"""Who may do what: rules in order, of which the first whose ``who`` fits an id decides for it; none fits: nothing.

A ``Policy`` answers with the ``Rights`` of one id, once a session: patterns are cut when the file is parsed, so that no
batch pays for the number of rules. Rights answer for an entity from a bounded cache.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import filterfalse
from typing import Final

from common.core.events.ids import SEPARATOR
from common.core.policy.patterns import Pattern
from common.core.policy.walls import Wall

_VERDICTS_KEPT: Final = 10_000
# With more alternatives a name that none fits would cost more than a look at the verdicts that are kept.
_IN_ONE_EXPRESSION: Final = 8


@dataclass(frozen=True, slots=True)
class WriteGrant:
    """Entities that may be written: a pattern of types and one of ids."""

    entity_type: Pattern
    entity_id: Pattern

    def __str__(self) -> str:
        return f"{self.entity_type}{SEPARATOR}{self.entity_id}"


@dataclass(frozen=True, slots=True)
class ReadGrant:
    """Streams that may be read, by whom of those the rule is for, and the most that is seen of them."""

    stream: Pattern
    wall: Wall
    readers: Pattern = field(default_factory=lambda: Pattern.of("*"))


@dataclass(frozen=True, slots=True)
class Rule:
    """What the ids that fit one of ``who`` may do. ``parked_events`` is their quota, if it is not the setting's."""

    name: str
    who: tuple[Pattern, ...]
    write: tuple[WriteGrant, ...] = ()
    read: tuple[ReadGrant, ...] = ()
    parked_events: int | None = None


_NOTHING: Final = Rule("no rule", ())


class Rights:
    """What one id may do under one policy."""

    def __init__(self, peer_id: str, rule: Rule) -> None:
        self.peer_id = peer_id
        self.rule = rule
        self._write = [
            (entity_type, entity_id)
            for grant in rule.write
            if (entity_type := grant.entity_type.filled(peer_id)) and (entity_id := grant.entity_id.filled(peer_id))
        ]
        self._is_granted = _expression_of(self._write)
        self._verdicts: dict[str, bool] = {}

    @property
    def parked_events(self) -> int | None:
        """Most parked events this peer may have; None leaves it to the setting."""
        return self.rule.parked_events

    def may_write(self, persistence_id: str) -> bool:
        """Whether events of this entity are taken from the peer."""
        verdict = self._verdicts.get(persistence_id)
        if verdict is None:
            if len(self._verdicts) >= _VERDICTS_KEPT:
                self._verdicts.clear()
            entity_type, _, entity_id = persistence_id.partition(SEPARATOR)
            verdict = self._verdicts[persistence_id] = any(
                types.matches(entity_type) and ids.matches(entity_id) for types, ids in self._write
            )
        return verdict

    def denied(self, names: Iterable[str]) -> frozenset[str]:
        """Those of these entities that the peer may not write."""
        return frozenset(name for name in filterfalse(self._is_granted, set(names)) if not self.may_write(name))

    def wall_of(self, stream_id: str) -> Wall | None:
        """The most the peer sees of a stream; None: the stream does not exist for it."""
        for grant in self.rule.read:
            stream = grant.stream.filled(self.peer_id)
            if stream and stream.matches(stream_id) and grant.readers.matches(self.peer_id):
                return grant.wall
        return None


def _expression_of(write: Sequence[tuple[Pattern, Pattern]]) -> Callable[[str], object]:
    """Finds, in a step for each name, most of what these grants let write; what it does not find may still be granted.

    It is linear in the name: a star of a type ends at the first separator, and that of an id at the name's end.
    """
    found = []
    for entity_type, entity_id in write[:_IN_ONE_EXPRESSION]:
        types, ids = entity_type.expression(f"[^{re.escape(SEPARATOR)}]*"), entity_id.expression(".*")
        if types is not None and ids is not None and SEPARATOR not in str(entity_type):
            found.append(f"{types}{re.escape(SEPARATOR)}{ids}")
    return re.compile("|".join(found) if found else "(?!)", re.DOTALL).fullmatch


class Policy:
    """Rules in order. ``version`` tells one state of the file from another; ``source`` names it in answers and logs."""

    def __init__(self, rules: Sequence[Rule], *, version: str, source: str) -> None:
        self.rules = tuple(rules)
        self.version = version
        self.source = source
        self._exact: dict[str, int] = {}
        self._patterns: list[tuple[int, Pattern]] = []
        for index, rule in enumerate(self.rules):
            for pattern in rule.who:
                if pattern.is_exact:
                    self._exact.setdefault(str(pattern), index)
                else:
                    self._patterns.append((index, pattern))

    def rights_of(self, peer_id: str) -> Rights:
        """What this id may do: all that the first rule says whose ``who`` it fits."""
        found = self._exact.get(peer_id, len(self.rules))
        for index, pattern in self._patterns:
            if index >= found:
                break
            if pattern.matches(peer_id):
                found = index
                break
        return Rights(peer_id, self.rules[found] if found < len(self.rules) else _NOTHING)


EVERYTHING: Final = Policy(
    [
        Rule(
            "everything",
            (Pattern.of("*"),),
            (WriteGrant(Pattern.of("*"), Pattern.of("*")),),
            (ReadGrant(Pattern.of("*"), Wall("")),),
        )
    ],
    version="",
    source="everything",
)
"""Where nothing is to be kept from anybody: a journal's own tests."""


def without_file(readers: Mapping[str, str], *, is_open: bool) -> Policy:
    """The policy of a service that has no file: below its own prefix a peer writes, always.

    Streams are open where identity is unproven anyway (``is_open``), else to the readers that are named by stream.
    """
    opened = {"*": "*"} if is_open else readers
    rule = Rule(
        "own prefix",
        (Pattern.of("*"),),
        (WriteGrant(Pattern.of("*"), Pattern.of("{id}/*")),),
        tuple(ReadGrant(Pattern.of(stream), Wall(""), Pattern.of(who)) for stream, who in opened.items()),
    )
    return Policy([rule], version="", source="the rules without a file")
