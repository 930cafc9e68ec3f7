"""Write man pages and completion scripts of the three commands below a folder, laid out as `/usr/local/share` is."""

import argparse
from pathlib import Path

import shtab
from argparse_manpage.manpage import Manpage

from cloud_service.cli import CLOUD
from common import VERSION
from common.runtime.cli.logs import logs_parser
from common.runtime.cli.main import parser_of
from edge_service.cli import EDGE

_SCRIPTS = {
    "bash": "bash-completion/completions/{name}",
    "zsh": "zsh/site-functions/_{name}",
}


def write(target: Path) -> None:
    """All files of all commands."""
    for make in (lambda: parser_of(EDGE), lambda: parser_of(CLOUD), logs_parser):
        parser = make()
        name = parser.prog
        for shell, place in _SCRIPTS.items():
            _put(target / place.format(name=name), shtab.complete(parser, shell))
        data = {"project_name": "backhaul", "version": VERSION, "manual_title": "Backhaul", "date": VERSION}
        _put(target / "man" / "man1" / f"{name}.1", str(Manpage(make(), data, format="single-commands-section")))


def _put(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


if __name__ == "__main__":
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("target", type=Path, nargs="?", default=Path("build/share"))
    write(words.parse_args().target)
