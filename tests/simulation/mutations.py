"""Protections that can be removed: each mutation must make its listed seed fail, by the checker it names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

@dataclass(frozen=True, slots=True)
class Mutation:
    """``applied()`` removes the protection while its block runs; ``seed`` is one that fails then."""

    checker: str
    seed: int
    applied: Callable[[], AbstractContextManager[Any]]


MUTATIONS: Mapping[str, Mutation] = {}
