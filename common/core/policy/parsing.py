"""A policy file's text as a ``Policy``. What it does not know is refused: a misspelt right would be silently none.

::

    [[rule]]
    name = "gateways"
    who = "g*"                                  # a pattern of ids, or a list of them
    write = ["*|{id}/*"]                        # EntityType|entityId; {id} is the peer's own
    read = ["news", {stream = "orders", filter = [{exclude_all = true}, {include_topics = ["site/{id}"]}]}]
    quota = {parked_events = 1000}

A filter may also be the JSON text of its criteria.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Collection
from hashlib import blake2b
from typing import Any, Final

from common.core.errors import BackhaulError
from common.core.events.ids import SEPARATOR
from common.core.policy.patterns import ID, Pattern
from common.core.policy.rules import Policy, ReadGrant, Rule, WriteGrant
from common.core.policy.walls import Wall

_PLACEHOLDER: Final = re.compile(r"\{[A-Za-z_]*\}")
_RULE_KEYS: Final = frozenset({"name", "who", "write", "read", "quota"})
# What decides about peers that push.
_OF_PUSHES: Final = frozenset({"write", "quota"})
PARKED_EVENTS_MAX: Final = 100_000_000


def parse_policy(text: str, source: str, *, takes_pushes: bool = True) -> Policy:
    """The policy that a TOML file says. Where nobody pushes to the service, rights that only pushes need are refused.

    Raises:
        BackhaulError: ``policy.invalid`` with the rule and what is wrong in it.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _invalid(source, f"is not TOML: {error}") from None
    _check_keys(source, document, {"rule"})
    rules = document.get("rule", [])
    if not isinstance(rules, list) or not all(isinstance(rule, dict) for rule in rules):
        raise _invalid(source, "has rules that are not written as [[rule]]")
    version = blake2b(text.encode(), digest_size=6).hexdigest()
    for number, rule in enumerate(rules, start=1):
        if not takes_pushes and (vain := sorted(_OF_PUSHES & rule.keys())):
            what = f"has `{vain[0]}`, which decides about peers that push, and nobody pushes to an edge"
            raise _invalid(f"{source}: rule {number}", what)
    parsed = [_rule(f"{source}: rule {number}", number, rule) for number, rule in enumerate(rules, start=1)]
    return Policy(parsed, version=version, source=source)


def _rule(place: str, number: int, rule: dict[str, Any]) -> Rule:
    _check_keys(place, rule, _RULE_KEYS)
    for placeholder in _PLACEHOLDER.findall(json.dumps(rule, default=str)):
        if placeholder != ID:
            raise _invalid(place, f"has {placeholder}; {ID} is the only placeholder")
    name = rule.get("name", f"rule {number}")
    if not isinstance(name, str) or not 0 < len(name) <= 80:
        raise _invalid(place, "has a name that is no text of 1 to 80 characters")
    if "who" not in rule:
        raise _invalid(place, "has no `who`")
    return Rule(
        name,
        tuple(Pattern.of(who) for who in _texts(place, "who", rule["who"])),
        tuple(_write(place, text) for text in _texts(place, "write", rule.get("write", []))),
        tuple(_read(place, entry) for entry in _listed(rule.get("read", []))),
        _quota(place, rule.get("quota", {})),
    )


def _write(place: str, text: str) -> WriteGrant:
    entity_type, separator, entity_id = text.partition(SEPARATOR)
    if not separator or not entity_type or not entity_id or SEPARATOR in entity_id:
        raise _invalid(place, f"may `write` {text[:80]!r}, which is not EntityType|entityId")
    return WriteGrant(Pattern.of(entity_type), Pattern.of(entity_id))


def _read(place: str, entry: object) -> ReadGrant:
    if isinstance(entry, str) and entry:
        return ReadGrant(Pattern.of(entry), Wall(""))
    if not isinstance(entry, dict) or not isinstance(entry.get("stream"), str) or not entry["stream"]:
        raise _invalid(place, "has an entry of `read` that is neither a stream's name nor {stream, filter}")
    _check_keys(place, entry, {"stream", "filter"})
    criteria = entry.get("filter", "")
    wall = Wall(criteria if isinstance(criteria, str) else json.dumps(criteria))
    try:
        wall.filter_for("any")
    except (BackhaulError, AttributeError, TypeError) as error:
        what = error.message if isinstance(error, BackhaulError) else "is not a list of criteria"
        raise _invalid(place, f"has a filter of {entry['stream'][:80]!r}: {what}") from None
    return ReadGrant(Pattern.of(entry["stream"]), wall)


def _quota(place: str, quota: object) -> int | None:
    if not isinstance(quota, dict):
        raise _invalid(place, "has a `quota` that is no table")
    _check_keys(place, quota, {"parked_events"})
    most = quota.get("parked_events")
    if most is not None and (not isinstance(most, int) or isinstance(most, bool) or not 0 <= most <= PARKED_EVENTS_MAX):
        raise _invalid(place, f"has a quota of parked_events that is no number up to {PARKED_EVENTS_MAX}")
    return most


def _texts(place: str, key: str, value: object) -> list[str]:
    texts = _listed(value)
    if not all(isinstance(text, str) and text for text in texts):
        raise _invalid(place, f"has a `{key}` that is neither a text nor a list of texts")
    return [str(text) for text in texts]


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


def _check_keys(place: str, table: dict[str, Any], known: Collection[str]) -> None:
    for key in table:
        if key not in known:
            raise _invalid(place, f"has {key[:80]!r}; known are {', '.join(sorted(known))}")


def _invalid(place: str, what: str) -> BackhaulError:
    return BackhaulError("policy.invalid", f"{place} {what}", "docs/running.md has the form of a policy file")
