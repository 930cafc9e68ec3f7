"""The pages hold together: links lead somewhere, named files exist, decisions are numbered, terms are those of the code."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "examples").rglob("*.md"))]


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


def _glossary() -> list[list[str]]:
    rows = (ROOT / "docs" / "glossary.md").read_text().splitlines()
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows if row.startswith("| ")][2:]


def test_the_glossary_has_each_term_once() -> None:
    terms = [term.strip() for row in _glossary() for term in row[0].split(",")]
    assert sorted(terms) == sorted(set(terms)), "one row a term: join the two"


def test_the_glossary_names_what_is_in_the_code() -> None:
    code = "\n".join(
        path.read_text()
        for folder in ("common", "edge_service", "cloud_service")
        for path in (ROOT / folder).rglob("*.py")
    )
    unknown = [
        name
        for row in _glossary()
        for name in re.findall(r"`([^`]+)`", row[1])
        if not re.search(rf"\b{re.escape(name.lstrip('@').rpartition('.')[2])}\b", code)
    ]
    assert unknown == [], "the code has another name for it now"


def test_the_files_that_the_architecture_page_names_exist() -> None:
    named = re.findall(r"`([\w./]+/[\w./]*)`", (ROOT / "ARCHITECTURE.md").read_text())
    lost = [path for path in named if not (ROOT / path).exists()]
    assert len(named) > 40
    assert lost == [], "a newcomer follows these paths: name the file that holds the subject now"
