"""The command lines: as processes where it is about the process, in this one where a service must answer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing

import orjson
import pytest

from cloud_service.cli import main as cloud_main
from common.runtime.cli import output as cli_output
from common.runtime.cli.client import ServiceClient
from common.runtime.cli.main import parser_of
from edge_service.cli import EDGE
from edge_service.cli import main as edge_main
from tests.support.answering import AnsweringService
from tests.support.paths import ROOT

IDENTITY = {"EDGE_ID": "edge-1", "EDGE_CLOUD": "localhost"}


def run(*words: str, **variables: str) -> tuple[int, str, str]:
    """Run a command as a process: exit status, standard output, standard error."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("EDGE_", "CLOUD_"))}
    done = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=ROOT,
        env={**environ, **variables},
        capture_output=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


# -- processes ----------------------------------------------------------------------------------------------------


def test_version_and_help_name_the_command() -> None:
    assert run("edge_service", "--version")[:2] == (0, "edge-service 0.1.0\n")
    status, reported, _ = run("cloud_service", "--help")
    assert status == 0
    assert "exit status: 0 done; 1 failed or refused; 2 wrong settings or usage" in reported


def test_a_question_loads_nothing_heavy(closed_port: str) -> None:
    heavy = ["trio", "starlette", "h11", "structlog", "grpclib", "apsw", "asyncpg", "betterproto"]
    heavy += ["importlib.metadata", "zipfile"]
    script = (
        "import sys; from edge_service.cli import main; "
        f"main(['healthcheck', '--http-port', '{closed_port}']); print([n for n in {heavy} if n in sys.modules])"
    )
    assert run_script(script) == "[]\n"


def test_a_command_adds_the_flags_of_its_own_settings_alone() -> None:
    script = (
        "import argparse; from edge_service.cli import EDGE; from common.runtime.cli.main import parser_of\n"
        "def flags(words):\n"
        "    actions = parser_of(EDGE, words)._subparsers._group_actions[0].choices\n"
        "    return [name for name, one in actions.items() if '--drain-s' in one.format_help() or '--drain-s' in"
        " one._option_string_actions]\n"
        "print(flags(['run']), flags(['status', '--http-port', '1']), len(flags(None)) > 10)"
    )
    assert run_script(script) == "['run'] ['status'] True\n"


def test_only_the_command_that_is_asked_for_is_added() -> None:
    def added(*words: str) -> set[str]:
        usage = parser_of(EDGE, words).format_help()
        return {word for word in ("run", "status", "parked", "completion") if f"\n    {word} " in usage}

    assert added("status", "--json") == {"status"}
    assert added("parked", "retry", "run") == {"parked"}
    assert added("--help") == added("sttaus") == {"run", "status", "parked", "completion"}


def test_a_running_service_collects_garbage_and_leaves_alone_what_was_loaded() -> None:
    script = (
        "import gc, os\n"
        "from dataclasses import replace\n"
        "from common.runtime.cli import main\n"
        "from edge_service.cli import EDGE\n"
        "async def serve(settings, environment, stop):\n"
        "    print(gc.isenabled(), gc.get_freeze_count() > 10_000)\n"
        "def load_serve():\n"
        "    print(gc.isenabled())\n"
        "    return serve\n"
        "words = ['run', '--id', 'edge-1', '--cloud', 'localhost']\n"
        "main.main(replace(EDGE, load_serve=load_serve), words, {})"
    )
    lines = run_script(script).splitlines()
    assert ("False" in lines, "True True" in lines) == (True, True), lines


def run_script(script: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    ).stdout


def test_check_config_shows_values_and_origins_redacted() -> None:
    url = "postgresql://user:secret@localhost/db"
    status, reported, errors = run("edge_service", "check-config", "--drain-s", "3s", EDGE_JOURNAL=url, **IDENTITY)
    lines = {line.split()[0]: line.split(None, 2)[1:] for line in reported.splitlines()}
    assert (status, errors) == (0, "")
    assert lines["drain_s"] == ["3s", "flag --drain-s"]
    assert lines["id"] == ["edge-1", "environment EDGE_ID"]
    assert lines["batch_max_events"] == ["2000", "default"]
    assert "secret" not in reported

    status, reported, _ = run("edge_service", "check-config", "--json", **IDENTITY)
    assert json.loads(reported)["cloud"] == {"value": "localhost:7443", "origin": "environment EDGE_CLOUD"}


@pytest.mark.parametrize(
    ("words", "variables", "code", "reported"),
    [
        ([], {}, "settings.missing", "EDGE_ID"),
        (["--clodu", "x"], IDENTITY, "settings.unknown_key", "did you mean --cloud?"),
        ([], {**IDENTITY, "EDGE_CLUOD": "x"}, "settings.unknown_key", "did you mean EDGE_CLOUD?"),
        (["--drain-s", "soon"], IDENTITY, "settings.invalid_value", "drain_s = 'soon'"),
        (["--config", "/nowhere.toml"], IDENTITY, "settings.file_unreadable", "/nowhere.toml"),
        (["--cloud", "example.org"], IDENTITY, "settings.plaintext_refused", "insecure = true"),
    ],
)
def test_bad_settings_end_in_a_code_a_hint_and_status_2(
    words: list[str], variables: dict[str, str], code: str, reported: str
) -> None:
    status, output, errors = run("edge_service", "check-config", *words, **variables)
    assert (status, output) == (2, "")
    assert errors.startswith(f"{code}: ")
    assert "\n  hint: " in errors
    assert reported in errors


def test_help_and_check_config_begin_with_what_is_the_services_own() -> None:
    _, reported, _ = run("edge_service", "run", "--help")
    assert reported.index("--id ") < reported.index("--journal ") < reported.index("--tls-ca ")
    assert "(must be set)" in reported
    assert "(default: 1GiB)" in " ".join(reported.split())
    assert run("edge_service", "check-config", **IDENTITY)[1].splitlines()[1].startswith("id ")


def test_a_journal_of_another_kind_is_no_path() -> None:
    status, _, errors = run("cloud_service", "check-config", CLOUD_JOURNAL="mysql://backhaul:secret@db/backhaul")
    assert (status, "no journal is kept at a mysql:// URL" in errors) == (2, True)
    assert "secret" not in errors
    for url in ("postgres://localhost/backhaul", "postgresql://localhost/backhaul", "/var/lib/backhaul/journal.db"):
        assert run("cloud_service", "check-config", CLOUD_JOURNAL=url)[0] == 0


def test_variables_that_others_set_are_left_alone() -> None:
    others = {"CLOUD_SERVICE_HOST": "10.0.0.7", "CLOUD_PORT_7443_TCP_ADDR": "10.0.0.7", "CLOUD_SDK_VERSION": "528.0.0"}
    assert run("cloud_service", "check-config", **others)[0] == 0
    others |= {
        "CLOUD_POSTGRES_SERVICE_HOST": "10.0.0.8",
        "CLOUD_POSTGRES_SERVICE_PORT_TCP_POSTGRES": "5432",
        "CLOUD_POSTGRES_PORT": "tcp://10.0.0.8:5432",
        "CLOUD_7_PORT_7443_TCP_PROTO": "tcp",
        "CLOUD_PORT": "tcp://10.0.0.7:7443",
        "CLOUD_HTTP_PORT": "tcp://10.0.0.9:80",
    }
    assert run("cloud_service", "check-config", **others)[0] == 0
    for typo in ("CLOUD_SDK_VERSIONS", "CLOUD_HTP_PORT", "CLOUD_HTTP_PORT"):
        assert run("cloud_service", "check-config", **{typo: "tcp"})[0] == 2


def test_run_tells_wrong_settings_in_its_log() -> None:
    status, output, _ = run("edge_service", "run", "--id", "a b")
    line = json.loads(output)
    assert status == 2
    assert (line["event"], line["code"], line["service"]) == ("service.refused", "settings.invalid_value", "edge")


@pytest.mark.parametrize("command", [["healthcheck"], ["status"], ["tail"], ["where", "A|x:1"], ["parked", "list"]])
def test_a_service_that_is_down_is_said_to_be(command: list[str], closed_port: str) -> None:
    status, output, errors = run("edge_service", *command, "--http-port", closed_port)
    assert (status, output) == (1, "")
    assert errors.startswith(f"cli.service_unreachable: no service answers on 127.0.0.1:{closed_port}: ")


def test_a_reader_that_has_seen_enough_ends_the_command_quietly(service: AnsweringService) -> None:
    service.answer("GET", "/v1/events", {"events": [{"n": n} for n in range(5000)], "through": 5000, "head": 5000})
    command = f"{sys.executable} -m edge_service tail --http-port {service.port} | head -n 1"
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == ('{"n":0}\n', "")


# -- a service that answers as the test says ----------------------------------------------------------------------


@pytest.fixture
def edge(service: AnsweringService) -> Callable[..., int]:
    return lambda *words: edge_main([*words, "--http-port", service.port])


@pytest.fixture
def cloud(service: AnsweringService) -> Callable[..., int]:
    return lambda *words: cloud_main([*words, "--http-port", service.port])


def test_healthcheck_follows_readyz(
    service: AnsweringService, edge: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    service.answer("GET", "/readyz", {"ready": True, "reasons": {}})
    assert edge("healthcheck") == 0
    service.answer("GET", "/readyz", {"ready": False, "reasons": {"journal": "cannot be read"}}, status=503)
    service.answer("GET", "/livez", {"alive": True})
    assert edge("healthcheck") == 1
    assert capsys.readouterr().err == "cli.not_ready: journal: cannot be read\n"
    assert edge("healthcheck", "--live") == 0


def test_healthcheck_waits_for_a_service_that_starts(
    service: AnsweringService, edge: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    service.answer("GET", "/readyz", {"ready": False, "reasons": {"journal": "is being opened"}}, status=503)
    opened = threading.Timer(0.3, lambda: service.answer("GET", "/readyz", {"ready": True, "reasons": {}}))
    opened.start()
    assert edge("healthcheck", "--wait-s", "30") == 0
    opened.join()
    assert capsys.readouterr() == ("ready\n", "")


def test_status_is_a_table_or_json(
    service: AnsweringService, cloud: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    answer = {"node": "n\x1b[1", "journal": {"head": 7}, "projections": [{"name": "latest", "lag_events": 12}]}
    service.answer("GET", "/status", answer)
    assert cloud("status") == 0
    expected = "node  n\\u001b[1\n\njournal\n  head  7\n\nprojections\n  name    lag events\n  latest          12\n"
    assert capsys.readouterr().out == expected
    assert cloud("status", "--json") == 0
    assert json.loads(capsys.readouterr().out) == answer


@pytest.mark.parametrize(
    ("payload", "printed"),
    [
        (b"18446744073709551616", "18446744073709551616"),
        (b'{"b":0.10000000000000000001,"a":1,"b":1E+2}', '{"b":0.10000000000000000001,"a":1,"b":1E+2}'),
        (b'{ "a" :\r\n\t"\\u0041" }', '{ "a" :   "\\u0041" }'),
        (b"[" * 128 + b"]" * 128, "[" * 128 + "]" * 128),
    ],
)
def test_a_payload_is_printed_as_it_came_and_on_one_line(
    payload: bytes,
    printed: str,
    service: AnsweringService,
    edge: Callable[..., int],
    cloud: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    event = b'{"payload":' + payload + b',"metadata":{"payload":"x"}}'
    shown = f'{{"payload":{printed},"metadata":{{"payload":"x"}}}}\n'
    service.answer("GET", "/v1/events", b'{"events":[' + event + b'],"through":1,"head":1}')
    service.answer("GET", "/v1/inbox/orders", b'{"events":[' + event + b'],"through":1}', b'{"events":[],"through":1}')
    service.answer("GET", "/v1/parked/1", b'{"id":1,"event":' + event + b"}")
    assert edge("tail") == 0
    assert capsys.readouterr().out == shown
    assert cloud("inbox", "tail", "orders") == 0
    assert capsys.readouterr().out == shown
    assert cloud("parked", "show", "1", "--json") == 0
    assert capsys.readouterr().out == f'{{"id":1,"event":{shown[:-1]}}}\n'
    assert cloud("parked", "show", "1") == 0
    assert f"payload   {printed}\n" in capsys.readouterr().out


def test_tail_reads_pages_up_to_the_head_it_found(
    service: AnsweringService, edge: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    pages = [
        {"events": [{"n": 1}], "through": 1, "head": 2},
        {"events": [{"n": 2}], "through": 2, "head": 9},
        {"events": [{"n": 3}], "through": 9, "head": 9},
    ]
    service.answer("GET", "/v1/events", *pages)
    assert edge("tail", "--after", "0") == 0
    assert capsys.readouterr().out == '{"n":1}\n{"n":2}\n'
    assert [path for _, path, _ in service.requests] == ["/v1/events?max=500&after=0", "/v1/events?max=500&after=1"]


def test_tail_says_what_retention_removed_before_what_is_left(
    service: AnsweringService, edge: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    gone = {"entity_type": "A", "entity_id": "x", "from_seq_nr": 1, "to_seq_nr": 2, "reason": "trimmed"}
    service.answer("GET", "/v1/events", {"events": [{"n": 3}], "deleted": [gone], "through": 3, "head": 3})
    assert edge("tail", "--after", "0") == 0
    first, second = capsys.readouterr().out.splitlines()
    assert orjson.loads(first) == {"deleted": gone}
    assert second == '{"n":3}'


def test_tail_hands_conditions_on_and_goes_to_the_end_of_what_is_asked_for(
    service: AnsweringService, edge: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    pages = [
        {"events": [{"n": 1}], "through": 3, "head": 9, "end": 5, "searched_after": 2},
        {"events": [], "through": 5, "head": 9, "end": 5},
    ]
    service.answer("GET", "/v1/events", *pages)
    since, until = "2026-01-31T03:00:00Z", "2026-01-31T04:00"
    assert edge("tail", "--type", "A", "--topic", "a/#", "--since", since, "--until", until, "--last", "5") == 0
    asked = "/v1/events?max=500&type=A&topic=a%2F%23&since=1769828400000000&until=1769832000000000"
    assert [path for _, path, _ in service.requests] == [f"{asked}&last=5", f"{asked}&after=3"]
    stated = capsys.readouterr()
    assert stated.out == '{"n":1}\n'
    assert stated.err == "the log up to position 2 was not looked through; --after 0 reads all of it\n"

    service.answer("GET", "/v1/events", {"events": [], "through": 5, "head": 5, "end": 5})
    assert edge("tail", "--since", "2h") == 0
    assert "last" not in service.requests[-1][1]
    assert edge("tail", "--since", "yesterday") == 2
    assert edge("tail", "--until", since, "--follow") == 2


def test_an_error_of_the_service_is_told_as_it_came(
    service: AnsweringService, cloud: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    error = {"code": "projection.unknown", "message": "no projection 'a/b'", "hint": "list them"}
    service.answer("POST", "/v1/projections/a%2Fb/pause", {"error": error}, status=404)
    assert cloud("projections", "pause", "a/b") == 1
    assert capsys.readouterr().err == "projection.unknown: no projection 'a/b'\n  hint: list them\n"


@pytest.mark.parametrize("content", [b"<html>", b"[1]", b'{"error": {"code": "Nope"}}'])
def test_another_program_on_the_port_is_noticed(
    content: bytes, service: AnsweringService, edge: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    service.answer("GET", "/status", content, status=500)
    assert edge("status") == 1
    assert capsys.readouterr().err.startswith("cli.unexpected_answer: ")


def test_a_connection_the_service_closed_while_it_was_idle_is_made_anew(service: AnsweringService) -> None:
    service.answer("GET", "/status", {"head": 1})
    service.closes_after_answer = True
    with closing(ServiceClient("127.0.0.1", int(service.port), 10)) as client:
        client.get("/status")
        assert service.has_hung_up.wait(10)
        assert client.get("/status") == {"head": 1}
    assert service.connections == 2


def test_operators_commands(
    service: AnsweringService, cloud: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    service.answer("POST", "/v1/parked/retry", {"stored": 1, "left": "parked.gap"})
    service.answer("POST", "/v1/parked/7/discard", {"discarded": {}})
    service.answer("POST", "/v1/origins/e1/readmit", {"readmitted": "e1"})
    service.answer("GET", "/v1/origins", {"origins": [{"id": "e1", "last_seen_us": 1_700_000_000_123_456}]})
    service.answer("GET", "/v1/where", {"state": "unknown", "head": None})

    assert cloud("parked", "retry", "A|x", "--accept-gap") == 1  # some stay
    assert service.requests[-1][2] == {"entity": "A|x", "accept_gap": True}
    assert cloud("parked", "discard", "7") == 0
    assert cloud("origins", "readmit", "e1") == 0
    assert cloud("where", "A|x:y:3") == 1
    assert service.requests[-1][1] == "/v1/where?entity=A%7Cx%3Ay&seq_nr=3"
    service.answer("POST", "/v1/parked/retry", {"stored": 0, "left": None})
    capsys.readouterr()
    assert cloud("parked", "retry", "A|y") == 0
    assert capsys.readouterr().out == "stored 0: nothing of A|y is parked\n"
    assert cloud("origins", "list") == 0
    assert capsys.readouterr().out == "id  last seen\ne1  2023-11-14 22:13:20.123Z\n"


def test_policy_check_says_the_verdict_the_rule_and_the_filter(
    service: AnsweringService, cloud: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    rule = {"rule": "gateways", "policy": "/etc/policy.toml"}
    service.answer("GET", "/v1/policy", {"who": "g7", "write": "Sensor|g2/x", **rule, "allowed": False})
    assert cloud("policy", "check", "--who", "g7", "--write", "Sensor|g2/x") == 1
    assert service.requests[-1][1] == "/v1/policy?who=g7&write=Sensor%7Cg2%2Fx"
    assert capsys.readouterr().out == "not allowed by 'gateways' of /etc/policy.toml\n"
    walled = {"who": "g7", "read": "orders", **rule, "allowed": True, "filter": '[{"exclude_all":true}]'}
    service.answer("GET", "/v1/policy", walled)
    assert cloud("policy", "check", "--who", "g7", "--read", "orders") == 0
    assert capsys.readouterr().out.endswith('of /etc/policy.toml, within the filter [{"exclude_all":true}]\n')
    assert cloud("policy", "check", "--who", "g7", "--read", "orders", "--json") == 0
    assert json.loads(capsys.readouterr().out) == walled
    asked = len(service.requests)
    for words in (["--who", "g7"], ["--read", "orders"], ["--who", "g7", "--read", "orders", "--write", "A|b"]):
        assert cloud("policy", "check", *words) == 2
    assert len(service.requests) == asked


def test_subscriptions_and_inboxes(
    service: AnsweringService, cloud: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    waiting = {"rows": 2, "bytes": 300, "first_id": 4, "last_id": 5, "acked_id": 3}
    running = {"name": "orders", "state": "connected", "position": 9, "received": 5, "awaiting": 0, "inbox": waiting}
    filters = {"applied": {"version": 1, "criteria": []}, "requested": {"version": 2, "criteria": [{"x": 1}]}}
    gone = {"name": "old", "state": None, "awaiting": 0, "inbox": dict.fromkeys(waiting, 0)}
    service.answer("GET", "/v1/subscriptions", {"subscriptions": [running | filters, gone]})
    service.answer("PUT", "/v1/subscriptions/orders/filter", {"requested": {"version": 3, "criteria": []}})
    service.answer("POST", "/v1/subscriptions/old/forget", {"inbox_rows": 7})
    service.answer("POST", "/v1/inbox/orders/ack", {"freed": 1, "inbox": {"rows": 1}})
    service.answer("GET", "/v1/inbox/orders", {"events": [], "through": 4})

    assert cloud("subscriptions", "list") == 0
    reported = capsys.readouterr().out
    assert "orders  connected" in reported
    assert "1 of 2" in reported
    assert "not configured" in reported
    assert cloud("subscriptions", "filter", "orders", "--set", '[{"exclude_all": true}]') == 0
    assert service.requests[-1][2] == {"criteria": [{"exclude_all": True}]}
    assert cloud("subscriptions", "filter", "orders") == 0
    assert '[{"x":1}]' in capsys.readouterr().out.replace(" ", "").replace("\\", "")
    assert cloud("subscriptions", "filter", "none") == 1
    assert cloud("subscriptions", "forget", "old") == 0
    assert cloud("inbox", "ack", "orders", "4") == 0
    assert service.requests[-1][2] == {"through": 4}
    assert cloud("inbox", "tail", "orders", "--after", "4") == 0
    assert service.requests[-1][1] == "/v1/inbox/orders?after=4&max=100"


@pytest.mark.parametrize(
    "words",
    [[], ["nothing"], ["where"], ["where", "x"], ["where", "A|x:one"], ["parked", "show", "x"], ["status", "x"]],
)
def test_wrong_usage_is_status_2(
    words: list[str], edge: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert edge(*words) == 2
    assert capsys.readouterr().err.startswith("cli.usage: ")


def test_a_free_port_cannot_be_guessed(capsys: pytest.CaptureFixture[str]) -> None:
    assert edge_main(["status", "--http-port", "0"]) == 1
    assert capsys.readouterr().err.startswith("cli.port_unknown: ")


# -- what is printed ----------------------------------------------------------------------------------------------


def test_nothing_printed_can_drive_a_terminal() -> None:
    line = cli_output.json_line({"a\x1b": "\x9b2J\u202e\U000e0001 é"})
    assert line.isprintable()
    assert json.loads(line) == {"a\x1b": "\x9b2J\u202e\U000e0001 é"}
