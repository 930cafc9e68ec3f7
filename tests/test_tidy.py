"""House rules that no linter knows. Each failure says what to do about it.

The rules look at files below the project's own folders, committed or not; what is made (`.venv`, caches) is left out.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = (
    "common",
    "edge_service",
    "cloud_service",
    "protos",
    "tests",
    "containers",
    "requirements",
    "docs",
    "examples",
    ".ci",
)
PRODUCT = ("common", "edge_service", "cloud_service")
GENERATED = ROOT / "common" / "generated"
WIRE = ROOT / "common" / "transport" / "codec" / "wire"  # generated too, but checked like what is written by hand
MODULE_LINES_MAX = 500
FOLDER_MODULES_MAX = 20
SUITE_LINES_MAX = 500  # a contract's cases stand one after the other, each for itself

# Written so that no pattern finds itself.
FOREIGN_WORDS = {
    "a package index or image registry: people use their own": (
        r"pyp[i][.]org|pythonhoste[d]|registry[.]npmj[s]|\b(docke[r]|ghc[r]|qua[y])[.]io\b"
    ),
    "a path of one machine": r"(?<![\w.])/wor[k]/|/roo[t]/\.pyenv",
    "who or what wrote it: the repository speaks of the product only": (
        r"(?i)claud[e]|anthropi[c]|chatgp[t]|\bCE[O]\b|co-authore[d]"
    ),
}


def _files(*folders: str, suffix: str = "") -> Iterator[Path]:
    for folder in folders:
        for path in sorted((ROOT / folder).rglob(f"*{suffix}")):
            if path.is_file() and "__pycache__" not in path.parts:
                yield path


def _top_level_files() -> Iterator[Path]:
    names = ("README.md", "Makefile", "pyproject.toml", ".gitignore", ".dockerignore")
    yield from (ROOT / name for name in names if (ROOT / name).exists())


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def _text(path: Path) -> str | None:
    """None for what is not text (a key, a database, a picture)."""
    try:
        return path.read_text()
    except UnicodeDecodeError:
        return None


def _where(path: Path, text: str, offset: int) -> str:
    return f"{path.relative_to(ROOT)}:{text.count(chr(10), 0, offset) + 1}"


def _requirements(name: str) -> dict[str, str]:
    """Package to pinned version (with its marker), as one lock file has it."""
    lines = (ROOT / "requirements" / name).read_text().splitlines()
    found = (re.match(r"([a-z0-9._-]+)(?:\[[^\]]*\])?==(\S+)", line) for line in lines)
    return {match[1]: match[2] for match in found if match}


def test_no_module_is_too_long_to_be_read_in_one_sitting() -> None:
    def bound(path: Path) -> int:
        return SUITE_LINES_MAX if path.name.startswith("test_") else MODULE_LINES_MAX

    long = {
        str(path.relative_to(ROOT)): lines
        for path in _files(*PRODUCT, "tests", "examples", ".ci", suffix=".py")
        if not {GENERATED, WIRE} & set(path.parents) and (lines := len(path.read_text().splitlines())) > bound(path)
    }
    assert long == {}, "find the second subject in it and give that a module of its own"


def test_no_folder_holds_more_modules_than_a_reader_takes_in() -> None:
    folders = {path.parent for path in _files(*PRODUCT, "tests", "examples", suffix=".py")}
    crowded = {
        str(folder.relative_to(ROOT)): count
        for folder in sorted(folders)
        if (count := sum(path.name != "__init__.py" for path in folder.glob("*.py"))) > FOLDER_MODULES_MAX
    }
    assert crowded == {}, "give a concept of its own a package"


def test_a_class_name_stands_for_one_class() -> None:
    places: dict[str, list[str]] = {}
    for path in _files(*PRODUCT, suffix=".py"):
        if {GENERATED, WIRE} & set(path.parents):
            continue
        for node in ast.walk(_tree(path)):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(f"{path.relative_to(ROOT)}:{node.lineno}")
    doubled = {name: at for name, at in places.items() if len(at) > 1}
    assert doubled == {}, "one name, one meaning: rename the later one, docs/glossary.md has the words"


def test_every_channel_has_a_bound() -> None:
    unbounded = []
    for path in _files(*PRODUCT, "tests", "examples", suffix=".py"):
        for node in ast.walk(_tree(path)):
            if isinstance(node, ast.Call) and _called(node.func) == "open_memory_channel":
                given = [ast.unparse(argument) for argument in (*node.args, *(word.value for word in node.keywords))]
                if not given or re.search(r"\binf\b", given[0]):
                    unbounded.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert unbounded == [], (
        "a queue without a bound is memory without a bound: say how much, and who waits when it is full"
    )


def _called(function: ast.expr) -> str:
    """`f` of `f(...)`, `a.f(...)` and `a.f[T](...)`."""
    if isinstance(function, ast.Subscript):
        function = function.value
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def test_no_carrier_inherits_a_concrete_class_of_ours() -> None:
    """What two ends share is a part that each has; protocols and exceptions may be inherited."""
    transport = [*_files("common/transport", suffix=".py")]
    classes = {
        node.name: node for path in transport for node in ast.walk(_tree(path)) if isinstance(node, ast.ClassDef)
    }

    def is_concrete(name: str) -> bool:
        bases = {_called(base) for base in classes[name].bases}
        is_open = bases & {"Protocol", "ABC", "Exception", "BackhaulError", "Enum", "NamedTuple"}
        return not is_open and not any(base in classes and not is_concrete(base) for base in bases)

    heirs = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}({base})"
        for path in transport
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.ClassDef)
        for base in map(_called, node.bases)
        if base in classes and base != node.name and is_concrete(base)
    ]
    assert heirs == [], "give the one an instance of the other"


def test_every_module_says_what_it_is_for() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in _files(*PRODUCT, "tests", "examples", ".ci", suffix=".py")
        if path.parent == GENERATED or GENERATED not in path.parents
        if not ast.get_docstring(_tree(path))
    ]
    assert silent == [], "begin the module with a docstring: what it is for, and what its reader should know first"


def test_nothing_is_left_to_do() -> None:
    left = [
        _where(path, text, match.start())
        for path in (*_files(*PRODUCT, "protos", "tests", "containers", "docs", "examples", ".ci"), *_top_level_files())
        if (text := _text(path)) is not None
        for match in re.finditer(r"\b(TOD[O]|FIXM[E]|XX[X])\b", text)
    ]
    assert left == [], "do it, or say in prose what is not there and why"


@pytest.mark.parametrize("what", FOREIGN_WORDS)
def test_the_repository_does_not_name(what: str) -> None:
    found = [
        f"{_where(path, text, match.start())}: {match[0]}"
        for path in (*_files(*FOLDERS), *_top_level_files())
        if (text := _text(path)) is not None
        for match in re.finditer(FOREIGN_WORDS[what], text)
    ]
    assert found == [], f"names {what}"


@pytest.mark.parametrize("name", ["edge.txt", "cloud.txt", "dev.txt"])
def test_a_lock_file_pins_and_hashes_everything_and_names_no_source(name: str) -> None:
    text = (ROOT / "requirements" / name).read_text()
    assert "://" not in text
    assert not re.search(r"^--", text, re.MULTILINE), "an option such as an index address belongs to whoever installs"
    lines = [line for line in text.splitlines() if line and not line.lstrip().startswith("#")]
    assert lines
    for line, following in pairwise([*lines, ""]):
        if not line.startswith(" "):
            assert re.match(r"[a-z0-9._-]+(\[[a-z,-]+\])?==\S+ .*\\$", line), f"not pinned: {line}"
            assert following.startswith("    --hash=sha256:"), f"not hashed: {line}"


@pytest.mark.parametrize("name", ["edge.txt", "cloud.txt"])
def test_what_is_shipped_is_what_is_tested(name: str) -> None:
    tested = _requirements("dev.txt")
    shipped = _requirements(name)
    assert {package: tested.get(package) for package in shipped} == shipped, "run `make lock`"


def test_an_edge_is_shipped_without_a_postgres_driver() -> None:
    assert "asyncpg" not in _requirements("edge.txt")
    assert "asyncpg" in _requirements("cloud.txt")


def test_the_generated_messages_are_those_of_the_protos(tmp_path: Path) -> None:
    to, wire_to = tmp_path / "generated", tmp_path / "wire"
    to.mkdir()
    script = ROOT / ".ci" / "generate_messages.py"
    subprocess.run([sys.executable, script, "--to", to, "--wire-to", wire_to], check=True)

    for fresh_folder, folder in ((to, GENERATED), (wire_to, WIRE)):
        fresh = {path.relative_to(fresh_folder): path.read_text() for path in fresh_folder.rglob("*.py")}
        committed = {path.relative_to(folder): path.read_text() for path in _files(str(folder), suffix=".py")}
        if folder == GENERATED:
            del committed[Path("__init__.py")]
        assert committed == fresh, "run `make proto`; never edit what it writes"


# A class of ours that another may inherit is abstract: a protocol, an ABC, an exception.
ABSTRACT = {"ABC", "Protocol", "Exception"}
INHERITED = {
    "ServiceSettings": "its fields are keys of one flat file; no service has these alone",
    "StreamSettings": "its fields are keys of one flat file; no service has these alone",
}


def test_no_class_inherits_a_concrete_class_of_ours() -> None:
    bases = {
        node.name: [base.id for base in map(_without_arguments, node.bases) if isinstance(base, ast.Name)]
        for path in _files(*PRODUCT, suffix=".py")
        if GENERATED not in path.parents
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.ClassDef)
    }

    def is_exception(name: str) -> bool:
        return name == "Exception" or any(map(is_exception, bases.get(name, ())))

    inherited = {
        base: name
        for name, own in bases.items()
        for base in own
        if base in bases and not ABSTRACT.intersection(bases[base]) and not is_exception(base)
    }
    assert inherited.keys() == INHERITED.keys(), (
        f"give {inherited} what it needs as a part, or both a protocol; strike from the list what nothing inherits"
    )


def _without_arguments(base: ast.expr) -> ast.expr:
    return base.value if isinstance(base, ast.Subscript) else base
