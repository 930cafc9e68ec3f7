"""The guide's pages as programs: their fenced blocks, run in order, with the output that the page promises.

A `python` block runs in its page's own module; a `text` block after it is what it prints. `…` in a promised output stands
for anything.
"""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from types import ModuleType

import structlog

from tests.support.paths import DOCS

GUIDE = DOCS / "guide"
_FENCE = re.compile(r"^```(\w+)?(?: title=(\S+))?$")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block; ``line`` is that of its first line in the page."""

    language: str
    title: str
    text: str
    line: int


def pages() -> list[str]:
    """Names of the guide's pages."""
    return sorted(path.name for path in GUIDE.glob("*.md"))


def blocks(page: str) -> list[Block]:
    """A page's fenced blocks in order."""
    found, opened, lines = [], None, (GUIDE / page).read_text().splitlines()
    for number, line in enumerate(lines, 1):
        fence = _FENCE.match(line)
        if fence and opened is None:
            opened = (fence[1] or "", fence[2] or "", number)
        elif fence and opened is not None:
            language, title, start = opened
            found.append(Block(language, title, "\n".join(lines[start : number - 1]) + "\n", start + 1))
            opened = None
    assert opened is None, f"{page} has a block that is not closed"
    return found


def is_as_promised(promised: str, printed: str) -> bool:
    """Whether an output is what the page says."""
    pattern = ".*?".join(re.escape(part) for part in promised.strip().split("…"))
    return re.fullmatch(pattern, printed.strip(), re.DOTALL) is not None


@contextmanager
def page_module(page: str) -> Iterator[ModuleType]:
    """Where a page's code lives: types are looked up in their module."""
    module = ModuleType(f"guide_{page.removesuffix('.md').replace('-', '_')}")
    sys.modules[module.__name__] = module
    try:
        yield module
    finally:
        del sys.modules[module.__name__]


def printed_by(block: Block, page: str, module: ModuleType) -> str:
    """Run a block; what it prints, without log lines. Tracebacks name the page's lines."""
    code = compile("\n" * (block.line - 1) + block.text, str(GUIDE / page), "exec")
    with structlog.testing.capture_logs(), redirect_stdout(io.StringIO()) as answer:
        exec(code, module.__dict__)
    return answer.getvalue()
