"""The audit line of a request that can change something: who, from where, what, with which result.

Made around the whole answer in `HttpApp`, which every route of a service is behind: a handler cannot leave it out, and a
request that is cut half way gets its line too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
from starlette.types import Scope

from common import audit

# In a request's scope: the name of the token by which it was let in, or ''.
TOKEN_KEY: Final = "backhaul.token"
# More of a body is not looked at: the members that name what is done are short.
_BODY_MAX_BYTES: Final = 64 * 1024
_PATH_MAX_CHARS: Final = 300
# A line is bounded, whatever a request says.
_MEMBERS_MAX: Final = 20
_MEMBER_MAX_CHARS: Final = 300
# What a member carries instead of naming: it may be large, or private.
_CONTENTS: Final = frozenset({"payload", "payload_base64", "metadata", "value"})
# Nothing was there to be done.
_NOTHING_HAPPENS: Final = frozenset({"http.no_such_path", "http.method_not_allowed"})


@dataclass(slots=True)
class Record:
    """What is known of a request while it is answered. `code` is that of a refusal, `is_turned_away` one by the door."""

    status: int = 0
    code: str = ""
    is_turned_away: bool = False
    body: bytearray = field(default_factory=bytearray)

    def take(self, part: bytes) -> None:
        """A part of the body, as it came."""
        self.body += part[: _BODY_MAX_BYTES - len(self.body)]

    @property
    def result(self) -> str:
        """The refusal's code, `done`, or `unanswered` where the request was cut."""
        if self.code:
            return self.code
        if not self.status:
            return "unanswered"
        return "done" if self.status < 400 else f"status {self.status}"

    def asked(self) -> dict[str, Any]:
        """The members of the body, without contents."""
        try:
            body = orjson.loads(self.body)
        except orjson.JSONDecodeError:
            return {}
        if not isinstance(body, dict):
            return {}
        named = [(name, value) for name, value in body.items() if name not in _CONTENTS]
        return {name[:_MEMBER_MAX_CHARS]: _shown(value) for name, value in named[:_MEMBERS_MAX]}


def _shown(value: object) -> object:
    """A member's value, bounded: a number as it is, a text cut, anything else as the beginning of its JSON."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return value[:_MEMBER_MAX_CHARS]
    try:
        return orjson.dumps(value)[:_MEMBER_MAX_CHARS].decode(errors="ignore")
    except orjson.JSONEncodeError:  # nested deeper than is written
        return "nested too deep"


@contextmanager
def audited(scope: Scope) -> Iterator[Record]:
    """Write the line when the block is left, however it is left."""
    record = Record()
    try:
        yield record
    finally:
        what = f"{scope['method']} {scope['path'][:_PATH_MAX_CHARS]}"
        who, source = requester(scope)
        if record.is_turned_away:  # not once for each try: anything that reaches the port can try
            audit.refused(who=who, source=source, what=what, rule="door", result=record.code)
        elif record.code not in _NOTHING_HAPPENS:
            audit.action(who=who, source=source, what=what, asked=record.asked(), result=record.result)


def requester(scope: Scope) -> tuple[str, str]:
    """Who asks (the token's name, else the user id at a Unix socket, else the address), and from where."""
    client = scope.get("client") or ("", 0)
    source = str(client[0])
    token = scope.get(TOKEN_KEY)
    return (f"token {token}" if token else source, source)
