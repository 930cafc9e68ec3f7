"""What docs/logs.md and docs/errors.md say about each event and code, for a command that explains logs.

The wheel carries both pages beside this module (`force-include` in pyproject.toml); a checkout has them in `docs/`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from common.core.log_analysis.report import Advice

_BESIDE: Final = Path(__file__).parent / "pages"
_CHECKOUT: Final = Path(__file__).parents[3] / "docs"
_NAME: Final = re.compile(r"`([a-z0-9_]+\.[a-z0-9_.]+)`")
_CELL_END: Final = re.compile(r"(?<!\\)\|")
_LINK: Final = re.compile(r"\[([^\]]*)\]\([^)]*\)")


def load_advice(folder: Path | None = None) -> Advice:
    """Meaning and action of every event and code. Raises OSError when the pages are not there."""
    folder = folder or (_BESIDE if _BESIDE.is_dir() else _CHECKOUT)
    return Advice(
        {cells[0]: (cells[3], cells[4]) for cells in _rows(folder / "logs.md", 5)},
        {cells[0]: (cells[1], cells[2]) for cells in _rows(folder / "errors.md", 3)},
    )


def _rows(page: Path, width: int) -> Iterator[list[str]]:
    """The cells of the rows that begin with a dotted name, as a terminal shows them best."""
    for line in page.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in _CELL_END.split(line)[1:-1]]
        if len(cells) == width and (name := _NAME.fullmatch(cells[0])):
            yield [name[1], *(_LINK.sub(r"\1", cell).replace("`", "").replace("\\|", "|") for cell in cells[1:])]
