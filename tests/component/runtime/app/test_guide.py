"""Every snippet of the guide runs, and prints what its page says."""

from __future__ import annotations

import re
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from common.app import Envelope, Event
from tests.support.guide import GUIDE, blocks, is_as_promised, page_module, pages, printed_by


@pytest.mark.parametrize("page", pages())
def test_a_pages_snippets_print_what_it_says(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    with page_module(page) as module:
        printed = ""
        for block in blocks(page):
            match block.language:
                case "python" if block.title:  # a file, which later blocks import
                    (tmp_path / block.title).parent.mkdir(parents=True, exist_ok=True)
                    (tmp_path / block.title).write_text(block.text)
                    monkeypatch.delitem(sys.modules, Path(block.title).parts[0].removesuffix(".py"), raising=False)
                case "python":
                    assert printed == "", f"{page}:{block.line}: what the block before prints is not on the page"
                    printed = printed_by(block, page, module)
                case "text":
                    assert is_as_promised(block.text, printed), f"{page}:{block.line}: it prints\n{printed}"
                    printed = ""
        assert printed == "", f"{page}: the last block's output is not on the page"


def test_the_guide_has_every_page_in_its_list_and_all_links_lead_somewhere() -> None:
    index = (GUIDE / "README.md").read_text()
    assert [page for page in pages() if page != "README.md" and f"({page})" not in index] == []
    for page in pages():
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", (GUIDE / page).read_text()):
            assert (GUIDE / target).exists(), f"{page} links to {target}"


def test_a_promise_that_is_not_kept_is_found() -> None:
    assert is_as_promised("a … c\n", "a b c")
    assert not is_as_promised("a b", "a b c")
    assert not is_as_promised("", "a")


def test_the_page_on_projections_lists_all_that_an_event_has() -> None:
    text = (GUIDE / "projections.md").read_text()
    named = set(
        re.findall(r"`((?:envelope\.)?\w+)`", text.partition("What an `Event` has:")[2].partition("A handler is")[0])
    )
    has = {name for name in dir(Event) if not name.startswith("_")}
    has |= {f"envelope.{one.name}" for one in fields(Envelope)}
    assert has - named == set()
