"""Finding an application by its name, and what is said of one that cannot be used."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route
from trio.testing import MockClock

from cloud_service.cli import CLOUD
from common.core.errors import ConfigurationError
from common.entity.definition import Decision, EventSourced, accept
from common.projection.handlers import Handler, OnFailure
from common.runtime.app.application import (
    NO_APPLICATION,
    App,
    Transformations,
    check_application,
    load_application,
)
from common.runtime.app.context import Running
from common.runtime.cli import main as cli
from common.testing import open_world

GOOD = """
from dataclasses import dataclass
from common.projection.handlers import Event, Handler
from common.runtime.app.application import App

@dataclass(frozen=True)
class Measured:
    value: float

def each(event: Event) -> None:
    pass

class inner:
    app = App(event_types=[Measured], projections=[Handler("overview", [], each=each)])

app = inner.app
"""
TWICE = """
from dataclasses import dataclass
from common.runtime.app.application import App
from common.core.events.types import named

@named("Measured")
@dataclass(frozen=True)
class One:
    value: float

@named("Measured")
@dataclass(frozen=True)
class Two:
    value: float

app = App(event_types=[One, Two])
"""


@dataclass(frozen=True)
class Level:
    """What some definitions below are about."""

    metres: int = 0


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The directory a service was started in."""
    monkeypatch.chdir(tmp_path)
    path, known = list(sys.path), set(sys.modules)
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - known:
        del sys.modules[name]


def refused(target: str) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as error:
        load_application(target)
    return error.value


def test_no_target_is_no_application() -> None:
    assert load_application("") is NO_APPLICATION
    assert not NO_APPLICATION.decodes


@pytest.mark.parametrize("target", ["drones:app", "drones:inner.app"])
def test_an_application_is_found_where_the_service_was_started(folder: Path, target: str) -> None:
    (folder / "drones.py").write_text(GOOD)
    application = load_application(target)
    assert (application.target, application.registry.names) == (target, ["Measured"])
    assert [handler.name for handler in application.app.projections] == ["overview"]


def test_a_module_that_is_not_there_is_told_from_one_that_it_imports(folder: Path) -> None:
    assert refused("dronez:app").code == "application.no_module"
    assert refused("drones.dronez:app").code == "application.no_module"
    (folder / "drones.py").write_text("x = 1\nimport numpie\n")
    error = refused("drones:app")
    assert error.code == "application.import_failed"
    assert f"{folder}/drones.py:2" in error.message
    assert "numpie" in error.message


@pytest.mark.parametrize(
    ("text", "line"),
    [("\n\n1 / 0\n", 3), ("x = (\n", 1), ("def f():\n    raise KeyError\n\nf()\n", 2), ("raise SystemExit(3)\n", 1)],
)
def test_a_module_that_does_not_import_is_named_with_its_line(folder: Path, text: str, line: int) -> None:
    (folder / "drones.py").write_text(text)
    error = refused("drones:app")
    assert error.code == "application.import_failed"
    assert f"{folder}/drones.py:{line}" in error.message


def test_what_is_named_must_be_there_and_be_an_app(folder: Path) -> None:
    (folder / "drones.py").write_text(GOOD)
    assert refused("drones:application").code == "application.no_such_name"
    assert refused("drones:Measured").code == "application.wrong_object"


def test_types_and_projections_of_one_name_are_refused_with_both_places(folder: Path) -> None:
    (folder / "drones.py").write_text(TWICE)
    error = refused("drones:app")
    assert error.code == "types.registered_twice"
    assert "drones.One" in error.message
    assert "drones.Two" in error.message
    first, second = (Handler("overview", [], each=lambda _event: None) for _ in range(2))
    with pytest.raises(ConfigurationError) as refusal:
        check_application(App(projections=[first, second]))
    assert refusal.value.code == "application.name_taken"
    assert refusal.value.message.count("test_application.py:") == 2
    with pytest.raises(ConfigurationError) as refusal:
        check_application(App(projections=[Handler("tally", [], each=lambda _event: None)]))
    assert refusal.value.code == "application.name_taken"


class Unfinished(EventSourced[Level, Level, Level]):
    entity_type = "Unfinished"
    empty = Level()

    def decide(self, state: Level, command: Level) -> Decision:
        return accept(command)


class Finished(Unfinished):
    def evolve(self, state: Level, event: Level) -> Level:
        return event


class Configured(Finished):
    def __init__(self, highest: int) -> None:
        self.highest = highest


async def waits(event: object) -> object:
    return event


class NoState:
    entity_type = "NoState"


@pytest.mark.parametrize(
    ("parts", "code", "reported"),
    [
        ({"projections": [print]}, "application.wrong_object", "projection"),
        ({"routes": 7}, "application.wrong_object", "maker of routes"),
        ({"event_types": [int]}, "types.unfit", "int"),
        ({"entities": [1]}, "entity.bad_definition", "int"),
        ({"entities": Finished}, "application.wrong_object", "entities"),
        ({"projections": iter([])}, "application.wrong_object", "projections"),
        ({"migrations": "CREATE TABLE one (a TEXT)"}, "application.wrong_object", "migrations"),
        ({"migrations": ["CREATE TABLE one (a TEXT)"]}, "application.wrong_object", "migrations"),
        ({"transformations": Transformations(on_push=5)}, "application.wrong_object", "on_push"),  # type: ignore[arg-type]
        ({"transformations": Transformations(on_serve=waits)}, "application.wrong_object", "on_serve"),  # type: ignore[arg-type]
        ({"entities": [Level]}, "entity.bad_definition", "Level"),
        ({"entities": [Unfinished]}, "entity.bad_definition", "has no evolve"),
        ({"entities": [Configured]}, "entity.bad_definition", "highest"),
        ({"states": [NoState]}, "state.bad_definition", "NoState"),
    ],
)
def test_parts_of_the_wrong_kind_are_refused_by_their_names(parts: dict[str, object], code: str, reported: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        check_application(App(**parts))  # type: ignore[arg-type]
    assert refusal.value.code == code
    assert reported in refusal.value.message


def test_a_definition_may_be_given_as_a_class_or_as_an_object() -> None:
    for given in (Finished, Finished(), Configured(5)):
        assert list(check_application(App(entities=[given])).entities) == ["Unfinished"]


@pytest.mark.parametrize(
    "parts", [{"migrations": ["CREATE TABLE one (a TEXT)"]}, {"migrations": "CREATE"}, {"reset": "DELETE FROM one"}]
)
def test_tables_that_are_written_as_one_text_are_no_list_of_letters(parts: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        Handler("one", each=lambda _event: None, **parts)  # type: ignore[arg-type]
    assert refusal.value.code == "projection.invalid_handler"


def test_a_definition_that_ours_refuses_while_it_is_imported_is_told_by_its_line(folder: Path) -> None:
    (folder / "drones.py").write_text("from common.projection.handlers import Handler\n\nh = Handler('one')\n")
    error = refused("drones:app")
    assert f"{folder}/drones.py:3" in error.message
    assert "projection.invalid_handler" in error.message
    assert "import drones" in error.hint


async def not_plain(_event: object) -> None:
    """Async where a plain function is wanted."""


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"name": "a/b"},
        {"name": "subscription:x"},
        {"name": "none"},
        {"name": "two", "each": print, "in_transaction": print},
        {"name": "async", "each": not_plain},
        {"name": "plain", "effect": lambda _event: None},
        {"name": "attempts", "each": print, "attempts": 0},
    ],
)
def test_a_projection_without_a_usable_name_or_function_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        Handler(**{"migrations": (), "on_failure": OnFailure.PARK, **wrong})  # type: ignore[arg-type]
    assert refusal.value.code == "projection.invalid_handler"


@pytest.mark.parametrize(
    ("app", "status", "code"),
    [
        ("tests.nowhere:app", 2, "application.no_module"),
        ("tests", 2, "settings.invalid_value"),
        ("tests.support.apps.counting:app", 0, ""),
    ],
)
def test_check_config_checks_the_application_too(
    app: str, status: int, code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(CLOUD, ["check-config"], {"CLOUD_APP": app}) == status
    assert capsys.readouterr().err.partition(":")[0] == code


def routes_that_raise(_running: Running) -> Sequence[BaseRoute]:
    raise SystemExit(3)


def routes_that_are_none(_running: Running) -> Sequence[BaseRoute]:
    return cast(Sequence[BaseRoute], None)


async def routes_that_wait(_running: Running) -> Sequence[BaseRoute]:
    return []


@pytest.mark.parametrize(
    ("routes", "reported"),
    [
        (routes_that_raise, "routes_that_raise raised SystemExit at"),
        (routes_that_are_none, "returned NoneType"),
        (routes_that_wait, "returned coroutine"),
        (lambda _running: [7], "returned list"),
    ],
)
async def test_routes_that_cannot_be_made_end_the_start(autojump_clock: MockClock, routes: Any, reported: str) -> None:  # noqa: ANN401
    with pytest.raises(ConfigurationError) as refusal:
        async with open_world(edge_app=App(routes=routes)):
            pass
    assert refusal.value.code == "application.routes_failed"
    assert reported in refusal.value.message
    assert "test_application.py:" in refusal.value.message


@pytest.mark.parametrize("name", ["common", "edge_service", "cloud_service"])
@pytest.mark.parametrize("is_package", [True, False])
def test_a_module_that_is_called_as_a_package_of_ours_is_refused_by_name(
    folder: Path, name: str, *, is_package: bool
) -> None:
    (folder / "fine.py").write_text(GOOD)
    if is_package:
        (folder / name).mkdir()
        (folder / name / "things.py").touch()
    else:
        (folder / f"{name}.py").touch()
    with pytest.raises(ConfigurationError, match=f"{name} has the name of a package of Backhaul") as caught:
        load_application("fine:app")
    assert caught.value.code == "application.name_shadows"


def test_a_service_started_beside_a_package_called_common_says_so(folder: Path) -> None:
    (folder / "common").mkdir()
    (folder / "common" / "__init__.py").touch()
    for service in ("edge_service", "cloud_service"):
        done = subprocess.run(
            [sys.executable, "-m", service, "--version"], cwd=folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        assert done.stderr.startswith(
            f"backhaul: {folder}/common/__init__.py has the name of Backhaul's package common"
        )
        assert done.stderr.count("\n") == 1


async def answer(_: Request) -> Response:
    return Response()


@pytest.mark.parametrize(
    "route",
    [
        Route("/status", answer),
        Route("/v1/events", answer, methods=["POST"]),
        Route("/v1/latest/{kind}/{key}", answer),
        Route("/v1/snapshots/Sensor/{key}", answer),
        Route("/v1/inbox/{anything}/ack", answer, methods=["POST"]),
    ],
)
async def test_a_route_that_hides_behind_the_services_is_refused_at_start(
    route: Route, autojump_clock: MockClock
) -> None:
    with pytest.raises(ConfigurationError, match=r"never answers: the service's own") as caught:
        async with open_world(cloud_app=App(routes=lambda _: [route])):
            pass
    assert caught.value.code == "application.route_hidden"


async def test_a_route_beside_the_services_is_taken(autojump_clock: MockClock) -> None:
    routes = [Route("/", answer), Route("/v1/events", answer, methods=["DELETE"]), Mount("/app", routes=[])]
    async with open_world(cloud_app=App(routes=lambda _: [*routes, Route("/{page}", answer)])):
        pass


def test_an_application_is_never_imported_from_the_folder_of_the_journal(folder: Path) -> None:
    (folder / "fine.py").write_text(GOOD)
    with pytest.raises(ConfigurationError, match="where the journal is") as caught:
        load_application("fine:app", data_folder=str(folder))
    assert caught.value.code == "application.in_data_folder"
    assert "fine" not in sys.modules
    link = folder / "data"
    link.symlink_to(folder)
    with pytest.raises(ConfigurationError, match="where the journal is"):
        load_application("fine:app", data_folder=str(link))
    load_application("fine:app", data_folder=str(folder / "elsewhere"))


@pytest.mark.parametrize(("journal", "status"), [("edge.db", 0), ("/elsewhere/edge.db", 0), ("{folder}/edge.db", 2)])
def test_a_journals_absolute_path_says_where_data_is(folder: Path, journal: str, status: int) -> None:
    (folder / "fine.py").write_text(GOOD)
    words = ["check-config", "--app", "fine:app", "--journal", journal.format(folder=folder)]
    assert cli.main(CLOUD, words, {}) == status
