"""What may stand in a log line: bounded, without secrets and without payloads.

Every value passes `cleaned`, exceptions pass `described`. Both are pure and never raise: a log line that
cannot be written as given is written differently, not dropped.
"""

from __future__ import annotations

import functools
import math
import re
import traceback
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Final

from common.core.errors import BackhaulError
from common.core.journal.url import REDACTED, redact_within

TEXT_MAX: Final = 2000
ITEMS_MAX: Final = 100
DEPTH_MAX: Final = 4
EXCEPTIONS_MAX: Final = 8
FRAMES_MAX: Final = 12
MESSAGE_MAX: Final = 500

_SECRET_KEY: Final = re.compile(
    r"(?i)(^|_)(passw(or)?d|secret|token|authorization|cookie|credentials?|private_key|api_key)(_|$)"
)
_PAYLOAD_KEYS: Final = frozenset({"payload", "payloads", "body"})


@functools.lru_cache(maxsize=1024)
def is_withheld(key: str) -> bool:
    """Whether what stands under this name is a secret or a payload."""
    return key in _PAYLOAD_KEYS or _SECRET_KEY.search(key) is not None


def cleaned(key: str, value: object, depth: int = 0) -> object:
    """The value as a log line may show it under this key."""
    if is_withheld(key):
        return REDACTED
    if isinstance(value, Enum):
        return cleaned(key, value.value, depth)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no word for it
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return _cleaned_text(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    if depth < DEPTH_MAX:
        if isinstance(value, Mapping):
            pairs = list(value.items())[:ITEMS_MAX]
            return {str(inner): cleaned(str(inner), item, depth + 1) for inner, item in pairs}
        if isinstance(value, list | tuple | set | frozenset):
            items = list(value)[:ITEMS_MAX]
            return [cleaned(key, item, depth + 1) for item in items]
    try:
        return _cleaned_text(str(value))
    except Exception:  # noqa: BLE001 - a broken __str__ must not cost the line
        return f"<{type(value).__name__}>"


def _cleaned_text(text: str) -> str:
    text = redact_within(text)
    return text if len(text) <= TEXT_MAX else f"{text[:TEXT_MAX]}… ({len(text)} characters)"


def described(error: BaseException) -> list[dict[str, object]]:
    """The exception, its causes and members of groups, outermost first, with the last frames of each."""
    entries = []
    for relation, found in _related(error):
        entry: dict[str, object] = {"type": type(found).__qualname__}
        if relation:
            entry["relation"] = relation
        if isinstance(found, BackhaulError):
            entry["code"] = found.code
        entry["message"] = str(cleaned("message", found))[:MESSAGE_MAX]
        entry["frames"] = [
            f"{frame.filename}:{frame.lineno} {frame.name}"
            for frame in traceback.extract_tb(found.__traceback__, limit=-FRAMES_MAX)
        ]
        entries.append(entry)
        if len(entries) == EXCEPTIONS_MAX:
            break
    return entries


def _related(error: BaseException) -> Iterator[tuple[str, BaseException]]:
    waiting: list[tuple[str, BaseException]] = [("", error)]
    seen: set[int] = set()
    while waiting:
        relation, found = waiting.pop(0)
        if id(found) in seen:
            continue
        seen.add(id(found))
        yield relation, found
        if isinstance(found, BaseExceptionGroup):
            waiting += [("member", member) for member in found.exceptions]
        if found.__cause__ is not None:
            waiting.append(("cause", found.__cause__))
        elif found.__context__ is not None and not found.__suppress_context__:
            waiting.append(("context", found.__context__))


def leaf_errors(error: BaseException) -> list[BaseException]:
    """The exceptions inside groups inside groups; the exception itself when it is none."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for member in error.exceptions for leaf in leaf_errors(member)]
    return [error]
