"""The pages hold together: links lead somewhere, decisions are numbered once each, no word is told twice."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "examples").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text())
    lost = [link for link in links if not link.startswith("http") and not (page.parent / link).exists()]
    assert not lost, "correct the path, or write the page"


def test_decisions_are_numbered_without_holes_and_by_their_titles() -> None:
    pages = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    assert [int(page.name[:4]) for page in pages] == list(range(1, len(pages) + 1)), "give the newest the next number"
    for page in pages:
        assert page.read_text().startswith(f"# {int(page.name[:4])}. "), f"{page.name}: begin the title with its number"


def test_the_glossary_tells_each_word_once() -> None:
    rows = (ROOT / "docs" / "glossary.md").read_text().splitlines()
    words = [word.strip() for row in rows if row.startswith("| ") for word in row.split(" | ")[0][2:].split(",")]
    assert sorted(words) == sorted(set(words)), "one row a word: join the two"
