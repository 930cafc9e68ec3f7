"""A wall: the filter that a policy puts before a stream, with the reader's id filled in. It always wins over a wish."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Final

from common.core.errors import BackhaulError
from common.core.filters.predicates import Filter, parse_filter
from common.core.policy.patterns import ID, PLAIN_ID

_REGEX_KEYS: Final = frozenset({"exclude_regex", "include_regex", "remove_exclude_regex", "remove_include_regex"})


@dataclass(frozen=True, slots=True)
class Wall:
    """Criteria as JSON, in which ``{id}`` stands for the reader's id; '' is no wall."""

    criteria: str

    def filter_for(self, reader_id: str) -> Filter:
        """What this reader may see at most.

        Raises:
            BackhaulError: ``subscription.invalid_consumer`` for an id that cannot be put into the filter.
        """
        if ID not in self.criteria:
            return parse_filter(self.criteria)
        if PLAIN_ID.fullmatch(reader_id) is None:
            raise BackhaulError(
                "subscription.invalid_consumer",
                "the consumer id is not made of letters, digits, '.', '_' and '-', as this stream's filter needs it",
                "set the consumer's id to a short name",
            )
        criteria = [
            {key: _filled(key, value, reader_id) for key, value in criterion.items()}
            for criterion in json.loads(self.criteria)
        ]
        return parse_filter(json.dumps(criteria))


def _filled(key: str, value: object, reader_id: str) -> object:
    if isinstance(value, str):
        return value.replace(ID, re.escape(reader_id) if key in _REGEX_KEYS else reader_id)
    if isinstance(value, list):
        return [_filled(key, entry, reader_id) for entry in value]
    if isinstance(value, dict):
        return {name: _filled(key, entry, reader_id) for name, entry in value.items()}
    return value
