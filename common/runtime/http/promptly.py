"""Routes that can answer without a task and without ASGI, which cost more than the rest of a small request.

The handler of such a route serves every request; its other function serves those that came whole and have a plain head
(`common.core.plain_http`), if nothing is wrong with them and nothing has to wait. What it does not take has left no
trace, and goes to the handler: so each refusal is made in one place, and a request is answered alike in both ways.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol, TypeAlias, runtime_checkable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route

from common.core.plain_http import PlainHead

Reply: TypeAlias = Callable[[Callable[[], Response]], None]
"""Called once, with what makes the answer: it returns it, or raises what a handler would."""
ServePromptly: TypeAlias = Callable[[Mapping[bytes, bytes], bytes, Reply], bool]
"""Given the headers by lower-case name and the body; says whether it has taken the request. Then it replies, at once or later.

It must not wait. Raises BackhaulError for a request that it has not taken.
"""

Answer: TypeAlias = Callable[[int, Sequence[tuple[bytes, bytes]], bytes], None]
"""Called once with status, headers and body. When the client has gone it does nothing."""
Begin: TypeAlias = Callable[[bytes, Answer], bool]
"""Given the body; says whether the request is taken. If not, nothing has happened."""


class PromptRoute(Route):
    """A POST of one path that `promptly` may serve too."""

    def __init__(self, path: str, handler: Callable[[Request], Awaitable[Response]], promptly: ServePromptly) -> None:
        super().__init__(path, handler, methods=["POST"])
        self.promptly = promptly


@runtime_checkable
class AnswersPromptly(Protocol):
    """An ASGI application that has prompt routes."""

    def promptly(self, head: PlainHead) -> Begin | None:
        """What serves requests of exactly this head, now and later; None: they are for ASGI."""
        ...


def prompt_routes(routes: Sequence[BaseRoute]) -> dict[str, ServePromptly]:
    """By path; none that another route answers before."""
    found = {}
    for route in routes:
        if isinstance(route, PromptRoute):
            scope = {"type": "http", "path": route.path, "method": "POST", "root_path": "", "headers": []}
            first = next(one for one in routes if one.matches(scope)[0] is Match.FULL)
            if first is route:
                found[route.path] = route.promptly
    return found
