"""The catalogues of log events and error codes, compared with the code.

Operators search `docs/logs.md` and `docs/errors.md` for what they see, so both must be complete and true. The
code is read as syntax: a log call is `….info("dotted.name", field=…)` on whatever object, and an error code is
every other dotted lower-case literal whose first word begins a code that an error class is called with.
When a test fails, its message has the rows to add.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from common.core.errors import CODE_PATTERN

FAIL_POINTS = "common/fail_points.py"  # lists names of its own kind
ROOT = Path(__file__).parent.parent
PACKAGES = ("common", "edge_service", "cloud_service")
LEVEL_OF_METHOD = {
    "debug": "debug",
    "info": "info",
    "warning": "warning",
    "error": "error",
    "exception": "error",
}
# Keywords of a log call that are instructions to the logger, not fields.
INSTRUCTIONS = frozenset({"exc_info", "repeat_key"})
BINDERS = frozenset({"bind", "bind_contextvars", "bound_contextvars"})
LOGGERS = frozenset({"log", "_log", "logger", "_logger"})
# First arguments of these are dotted names of other kinds.
OTHER_NAMES = frozenset({"fail_point", "files", "import_module", "getLogger"})
# Dotted names of other people's protocols that begin like our codes.
FOREIGN = re.compile(r"(http\.(request|disconnect|response\.\w+)|websocket\.\w+)")


@dataclass
class LogCall:
    event: str
    level: str
    fields: set[str]
    where: str


@dataclass
class Scan:
    """What the code says: log calls, bound context fields, codes with their places, and what cannot be read."""

    log_calls: list[LogCall] = field(default_factory=list)
    context_fields: dict[str, str] = field(default_factory=dict)
    codes: dict[str, str] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)


def scan(sources: dict[str, str]) -> Scan:
    """`sources` maps a file's name to its text."""
    trees = {name: ast.parse(text) for name, text in sources.items()}
    error_classes = _error_classes(trees)
    found = Scan()
    literals: list[tuple[str, str]] = []
    for name, tree in trees.items():
        if name == FAIL_POINTS:
            continue
        for node, function in _nodes(tree, ""):
            if isinstance(node, ast.Call):
                _scan_call(found, node, function, f"{name}:{node.lineno}")
            elif isinstance(node, ast.Constant) and _is_code(node.value):
                literals.append((str(node.value), f"{name}:{node.lineno}"))
    prefixes = {code.partition(".")[0] for tree in trees.values() for code in _raised(tree, error_classes)}
    not_codes = {call.event for call in found.log_calls} | _other_names(trees)
    raised = {code for tree in trees.values() for code in _raised(tree, error_classes)}
    for text, where in literals:
        is_like_a_code = text.partition(".")[0] in prefixes and text not in not_codes
        if text in raised or (is_like_a_code and not FOREIGN.fullmatch(text)):
            found.codes.setdefault(text, where)
    return found


def _nodes(node: ast.AST, function: str) -> Iterator[tuple[ast.AST, str]]:
    """Every node with the name of the function around it."""
    for child in ast.iter_child_nodes(node):
        yield child, function
        inner = child.name if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) else function
        yield from _nodes(child, inner)


def _is_code(value: object) -> bool:
    return isinstance(value, str) and CODE_PATTERN.fullmatch(value) is not None


def _last_name(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    if isinstance(node, ast.Call):
        return _last_name(node.func)
    return node.id if isinstance(node, ast.Name) else ""


def _scan_call(found: Scan, call: ast.Call, function: str, where: str) -> None:
    method = _last_name(call.func)
    names = {keyword.arg for keyword in call.keywords if keyword.arg is not None}
    if method in BINDERS:
        for name in names:
            found.context_fields.setdefault(name, where)
    if method not in LEVEL_OF_METHOD or not isinstance(call.func, ast.Attribute) or not call.args:
        return
    event = call.args[0]
    is_logger = _last_name(call.func.value) in LOGGERS
    if isinstance(event, ast.Constant) and (_is_code(event.value) or is_logger):
        if not _is_code(event.value):
            found.unreadable.append(f"{where}: {event.value!r} is not a dotted lower-case event name")
            return
        if function not in LEVEL_OF_METHOD and not _spells_fields_out(call):
            found.unreadable.append(f"{where}: spell the fields of {event.value!s} out instead of **")
        level = LEVEL_OF_METHOD[method]
        found.log_calls.append(LogCall(str(event.value), level, names - INSTRUCTIONS, where))
    elif is_logger and function not in LEVEL_OF_METHOD:  # a wrapper is named like the level it logs at
        found.unreadable.append(f"{where}: the event name must be a literal")


def _spells_fields_out(call: ast.Call) -> bool:
    """Whether the only `**x` is `**exc`, by convention `exc_info` or nothing."""
    return all(_last_name(keyword.value) == "exc" for keyword in call.keywords if keyword.arg is None)


def _error_classes(trees: dict[str, ast.Module]) -> set[str]:
    bases: dict[str, set[str]] = {}
    for tree in trees.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                bases[node.name] = {_last_name(base) for base in node.bases}
    known = {"BackhaulError"}
    while added := {name for name, above in bases.items() if above & known} - known:
        known |= added
    return known


def _raised(tree: ast.Module, error_classes: set[str]) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.name in error_classes:
            yield from (code for inner in ast.walk(node) for code in _first_literal(inner, {"__init__"}))
        yield from _first_literal(node, error_classes)


def _first_literal(node: ast.AST, callees: set[str]) -> Iterator[str]:
    if isinstance(node, ast.Call) and _last_name(node.func) in callees and node.args:
        first = node.args[0]
        if isinstance(first, ast.Constant) and _is_code(first.value):
            yield str(first.value)


def _other_names(trees: dict[str, ast.Module]) -> set[str]:
    return {
        name for tree in trees.values() for node in ast.walk(tree) for name in _first_literal(node, set(OTHER_NAMES))
    }


def _sources() -> dict[str, str]:
    return {
        str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        if "generated" not in path.parts
    }


def rows(page: str, section: str = "") -> dict[str, list[str]]:
    """The table rows of a page, or of one of its sections, by their first cell, which stands in backticks."""
    if section:
        page = page.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    found: dict[str, list[str]] = {}
    for line in page.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if cells and cells[0].startswith("`"):
            name = cells[0].strip("`")
            assert name not in found, f"{name} is documented twice"
            found[name] = cells[1:]
    return found


def _page(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def _context() -> set[str]:
    return set(rows(_page("logs.md"), "Fields"))


def _events() -> dict[str, list[str]]:
    return {name: cells for name, cells in rows(_page("logs.md")).items() if "." in name}


def _names(cell: str) -> set[str]:
    return set(re.findall(r"`([^`]+)`", cell))


def log_problems(found: Scan, events: dict[str, list[str]], context: set[str]) -> list[str]:
    """What the catalogue of log events lacks or has too much; each with the row to write."""
    problems = list(found.unreadable)
    for event in sorted({call.event for call in found.log_calls} - set(events)):
        calls = [call for call in found.log_calls if call.event == event]
        levels = ", ".join(sorted({call.level for call in calls}))
        fields = ", ".join(f"`{name}`" for name in sorted(set().union(*(call.fields for call in calls)) - context))
        problems.append(f"{calls[0].where}: add | `{event}` | {levels} | {fields} | meaning | what to do |")
    for call in found.log_calls:
        if call.event not in events:
            continue
        levels_cell, fields_cell = events[call.event][:2]
        if call.level not in [level.strip() for level in levels_cell.split(",")]:
            problems.append(f"{call.where}: {call.event} is logged at {call.level}, documented as {levels_cell}")
        undocumented = sorted(call.fields - _names(fields_cell) - context)
        problems += [f"{call.where}: {call.event} has the undocumented field `{name}`" for name in undocumented]
    logged = {call.event for call in found.log_calls}
    problems += [f"docs/logs.md: no code logs {event}" for event in sorted(set(events) - logged)]
    return problems + [
        f"{where}: add | `{name}` | meaning | to the section Fields of docs/logs.md"
        for name, where in found.context_fields.items()
        if name not in context
    ]


def test_log_catalogue_says_what_the_code_logs() -> None:
    problems = log_problems(scan(_sources()), _events(), _context())
    assert not problems, "\n".join(["docs/logs.md and the code differ:", *problems])


def test_every_catalogued_event_says_what_it_means_and_what_to_do() -> None:
    lacking = [event for event, cells in _events().items() if len(cells) != 4 or not all(cells[2:])]
    assert lacking == []


def code_problems(found: Scan, documented: set[str]) -> list[str]:
    """What the catalogue of error codes lacks or has too much."""
    missing = [
        f"{where}: add | `{code}` | meaning | what to do |"
        for code, where in sorted(found.codes.items())
        if code not in documented
    ]
    return missing + [f"docs/errors.md: no code uses {code}" for code in sorted(documented - set(found.codes))]


def test_error_catalogue_says_what_the_code_raises() -> None:
    problems = code_problems(scan(_sources()), set(rows(_page("errors.md"))))
    assert not problems, "\n".join(["docs/errors.md and the code differ:", *problems])


def test_every_catalogued_code_says_what_it_means_and_what_to_do() -> None:
    lacking = [code for code, cells in rows(_page("errors.md")).items() if len(cells) != 2 or not all(cells)]
    assert lacking == []


SAMPLE = '''
class PeerGone(BackhaulError):
    """Far away."""

def f(log, throttle, reason):
    log.info("link.connected", peer=1, repeat_key="x")
    throttle.warning("link.lost_line", peer=1, reason=reason, exc_info=True)
    log.info(reason)
    log.error("link.broken", **reason)
    log.bind(stream=1).info("link.connected", peer=1)
    fail_point("link.fail")
    raise PeerGone("link.gone", "the peer is gone")

def judge():
    return "link.behind"

class Throttle:
    def warning(self, event, **fields):
        log.warning(event, **fields)
'''


def test_scanner_reads_log_calls_bound_fields_and_codes() -> None:
    found = scan({"sample.py": SAMPLE})
    assert [(call.event, call.level, call.fields) for call in found.log_calls] == [
        ("link.connected", "info", {"peer"}),
        ("link.lost_line", "warning", {"peer", "reason"}),
        ("link.broken", "error", set()),
        ("link.connected", "info", {"peer"}),
    ]
    assert set(found.codes) == {"link.gone", "link.behind"}
    assert set(found.context_fields) == {"stream"}
    assert found.unreadable == [
        "sample.py:8: the event name must be a literal",
        "sample.py:9: spell the fields of link.broken out instead of **",
    ]


def test_each_difference_is_told() -> None:
    found = scan({"sample.py": SAMPLE})
    found.unreadable.clear()
    events = {
        "link.connected": ["warning", "`peer`", "m", "d"],
        "link.lost_line": ["warning", "`peer`", "m", "d"],
        "link.old": ["info", "", "m", "d"],
    }
    assert log_problems(found, events, set()) == [
        "sample.py:9: add | `link.broken` | error |  | meaning | what to do |",
        "sample.py:6: link.connected is logged at info, documented as warning",
        "sample.py:7: link.lost_line has the undocumented field `reason`",
        "sample.py:10: link.connected is logged at info, documented as warning",
        "docs/logs.md: no code logs link.old",
        "sample.py:10: add | `stream` | meaning | to the section Fields of docs/logs.md",
    ]
    assert code_problems(found, {"link.gone", "link.never"}) == [
        "sample.py:15: add | `link.behind` | meaning | what to do |",
        "docs/errors.md: no code uses link.never",
    ]
