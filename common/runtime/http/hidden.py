"""Routes are tried in order: one that comes after another of the same paths never answers. Found at start, by name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from starlette.routing import BaseRoute, Match, Route

from common.core.errors import ConfigurationError

_PARAMETER: Final = re.compile(r"\{[A-Za-z_]\w*(?::([a-z]+))?\}")
# A value of a kind that no literal part of a service's path has.
_SAMPLES: Final[Mapping[str | None, str]] = {
    "int": "7041",
    "float": "7041.5",
    "path": "~a/~b",
    "uuid": "00000000-0000-4000-8000-000000000000",
}


def check_not_hidden(own: Iterable[BaseRoute], before: Sequence[BaseRoute]) -> None:
    """Refuse an application's route that a service's route answers always.

    Raises:
        ConfigurationError: ``application.route_hidden``.
    """
    for route in own:
        path = getattr(route, "path", None)
        if not isinstance(path, str):
            continue
        sample = _PARAMETER.sub(lambda found: _SAMPLES.get(found[1], "~a"), path)
        methods = sorted(getattr(route, "methods", None) or {"GET"})
        for method in methods:
            scope: dict[str, Any] = {"type": "http", "path": sample, "method": method, "root_path": "", "headers": []}
            hiding = next((one for one in before if one.matches(scope)[0] is Match.FULL), None)
            if hiding is not None and method != "HEAD":
                place = hiding.path if isinstance(hiding, Route) else "one"
                raise ConfigurationError(
                    "application.route_hidden",
                    f"the application's route {method} {path} never answers: the service's own {place} comes before it",
                    "give it a path of its own, such as /app/…; docs/http.md has the service's",
                    details={"path": path, "method": method},
                )
