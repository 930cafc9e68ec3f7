"""A library that lacks what is touched is named with its version, and nothing is changed for the whole process."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import common
from common.private.surface import UnsupportedLibrary, require, require_used, with_globals

PRIVATE = Path(common.__file__).parent / "private"
MODULES = sorted(path.stem for path in PRIVATE.glob("*.py") if path.stem not in {"__init__", "surface"})

# Takes one of the touched parts away before our module looks.
TAKEN_AWAY = {
    "asyncio": "import asyncio.sslproto; del asyncio.sslproto.SSLProtocol.max_size",
    "grpclib": (
        "from common import border; from grpclib.protocol import EventsProcessor as E;"
        "E.process_stream_reset = lambda self, event: None"
    ),
    "h2": "import h2.connection; h2.connection.H2Connection._receive_frame = lambda self, frame: []",
    "hpack": "import hpack.hpack; del hpack.hpack.log",
    "ssl": (
        "import ssl; ssl.SSLObject.getpeercert = lambda self: None;"
        "[delattr(ssl.SSLObject, name) for name in ('get_verified_chain',) if hasattr(ssl.SSLObject, name)]"
    ),
    "trio_asyncio": (
        "import warnings; warnings.simplefilter('ignore'); import trio_asyncio._base as b;"
        "del b.BaseTrioEventLoop._main_loop_one"
    ),
}

UNTOUCHED = """
import asyncio, asyncio.sslproto, warnings
warnings.simplefilter("ignore")
import h2.connection, hpack, hpack.hpack, hyperframe.frame, trio_asyncio, trio_asyncio._loop
import grpclib.protocol, betterproto, h2.frame_buffer

def parts():
    modules = (h2.connection, hpack.hpack, hyperframe.frame, trio_asyncio, trio_asyncio._loop, trio_asyncio._base,
        asyncio.sslproto, asyncio.selector_events, grpclib.protocol,
        h2.frame_buffer)
    found = {}
    for module in modules:
        for name, value in vars(module).items():
            if name.startswith("__"):
                continue
            found[module.__name__, name] = value
            if isinstance(value, type) and value.__module__ == module.__name__:
                found |= {(module.__name__, name, inner): each for inner, each in vars(value).items()
                          if inner[:6] != "__abst" and inner != "_abc_impl"}
    return found | {("log", name): value for name, value in vars(hpack.hpack.log).items()}

before = parts()
import cloud_service.__main__, edge_service.service, cloud_service.service, common.runtime.http.serving.server
import common.transport.grpc, common.transport.codec.push
after = parts()
print([key for key in before if before[key] is not after.get(key)])
"""


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("module", MODULES)
def test_a_library_without_what_is_touched_is_named(module: str) -> None:
    result = run(f"{TAKEN_AWAY[module]}\nimport common.private.{module}")
    [last] = result.stderr.strip().splitlines()[-1:]
    library = module.replace("_", "-")
    assert re.match(rf"common\.private\.surface\.UnsupportedLibrary: {library} .* has no .*, which Backhaul uses", last)
    assert result.returncode == 1


def test_the_services_change_no_library_for_the_whole_process() -> None:
    result = run(UNTOUCHED)
    assert (result.stdout.strip(), result.stderr) == ("[]", "")


@pytest.mark.parametrize("module", MODULES)
def test_each_module_names_what_it_touches_and_its_guard_tests(module: str) -> None:
    [doc] = re.findall(r'^"""(.*?)"""', (PRIVATE / f"{module}.py").read_text(), re.DOTALL)
    assert "Touched: " in doc
    guards = re.findall(r"tests/[\w/.]*\w", doc)
    root = PRIVATE.parent.parent
    assert guards
    assert [guard for guard in guards if not (root / guard).exists()] == []


class Library:
    """Stands for one: `ready` exists on instances only."""

    def __init__(self) -> None:
        self.ready = True

    def greet(self) -> str:
        return repr(self.ready)


def test_what_is_there_is_no_error_and_what_is_not_is() -> None:
    require("trio", Library, "greet")
    require_used("trio", Library.__init__, "ready")
    with pytest.raises(UnsupportedLibrary, match=r"trio \d+\.\d+.* has no Library\.gone, which"):
        require("trio", Library, "gone")
    with pytest.raises(UnsupportedLibrary, match=r"has no gone in Library\.greet, which"):
        require_used("trio", Library.greet, "gone")


def test_a_copy_with_other_globals_leaves_the_original_alone() -> None:
    assert with_globals(Library.greet, repr=lambda _: "short")(Library()) == "short"
    assert Library().greet() == "True"
