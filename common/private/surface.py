"""What the modules of this package share: assertions about a library's surface, and functions with other globals."""

from __future__ import annotations

from collections.abc import Callable
from types import CodeType, FunctionType
from typing import Any, ParamSpec, TypeVar, cast

P = ParamSpec("P")
R = TypeVar("R")


class UnsupportedLibrary(ImportError):
    """An installed library lacks a private part that is used here: this version of it was never tested with us."""

    def __init__(self, library: str, attribute: str) -> None:
        super().__init__(
            f"{library} {_version_of(library)} has no {attribute}, which Backhaul uses: install the version in"
            f" requirements/, or mend common/private (docs/decisions/0017-private-parts.md)",
            name=library,
        )
        self.library = library
        self.attribute = attribute


def require(library: str, owner: object, *names: str) -> None:
    """Assert that `owner` (a class, module or instance) has these attributes. Raises UnsupportedLibrary."""
    for name in names:
        if not hasattr(owner, name):
            raise UnsupportedLibrary(library, f"{_name_of(owner)}.{name}")


def require_used(library: str, function: Callable[..., object], *names: str) -> None:
    """Assert that `function` reads or sets these names: globals, or attributes that exist on instances only."""
    code = getattr(function, "__code__", None)
    used = _names_in(code) if isinstance(code, CodeType) else set()
    for name in names:
        if name not in used:
            raise UnsupportedLibrary(library, f"{name} in {_name_of(function)}")


def with_globals(function: Callable[P, R], **names: object) -> Callable[P, R]:
    """A copy of a library's function that finds these names instead of its module's; the original stays as it is.

    The other globals are those of the moment of the copy.
    """
    original = cast(FunctionType, function)
    copy = FunctionType(
        original.__code__,
        {**original.__globals__, **names},
        original.__name__,
        original.__defaults__,
        original.__closure__,
    )
    copy.__kwdefaults__ = original.__kwdefaults__
    return cast(Callable[P, R], copy)


def _names_in(code: CodeType) -> set[str]:
    """The names that a function's code uses, those of functions within it included."""
    names: set[str] = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= _names_in(constant)
    return names


def _name_of(owner: object) -> str:
    named: Any = owner if hasattr(owner, "__name__") else type(owner)
    return str(getattr(named, "__qualname__", named.__name__))


def _version_of(library: str) -> str:
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 - slow to import, for a message alone

    try:
        return version(library)
    except PackageNotFoundError:
        return "(unknown version)"
