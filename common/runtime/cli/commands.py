"""The commands that ask a running service and print its answer; the service's own file is never opened.

Each is a `Command`: its words, its arguments, and what it does with a connection to the service. A service's command
line is made of the groups it has routes for.
"""

from __future__ import annotations

import time
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from common.core.errors import BackhaulError
from common.core.log_analysis.record import parse_since
from common.runtime.cli.client import Answer, ServiceClient, path_segment
from common.runtime.cli.output import complain, complain_of, fields, json_line, say, table
from common.runtime.settings.loading import Loaded
from common.runtime.settings.service import ServiceSettings

_PAGE: Final = 500
_FOLLOW_S: Final = 2
_ASK_AGAIN_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class Question:
    """One call of a command: its arguments, the service's settings, and the way to it."""

    args: Namespace
    loaded: Loaded[Any]
    client: ServiceClient

    @property
    def settings(self) -> ServiceSettings:
        """The service's settings; stand-ins for those that a question needs no value of."""
        settings: ServiceSettings = self.loaded.settings
        return settings


def _no_arguments(_: ArgumentParser) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Command:
    """A command of one or two words. `run` returns the exit status and raises `BackhaulError`.

    With `needs_settings` the settings must be whole, and are this machine's; else stand-ins are taken for those that have
    no default, and with `in_context` a context may say where the service is asked.
    """

    words: tuple[str, ...]
    help_text: str
    run: Callable[[Question], int]
    add_arguments: Callable[[ArgumentParser], None] = _no_arguments
    timeout_s: float = 30.0
    needs_settings: bool = False
    in_context: bool = True


def number(text: str) -> int:
    """An argument that is a whole number from 0."""
    if not (text.isascii() and text.isdigit()) or len(text) > 18:
        raise ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def json_flag(parser: ArgumentParser) -> None:
    """Let the command print JSON."""
    parser.add_argument("--json", action="store_true", help="print the service's answer as one line of JSON")


def show(question: Question, answer: dict[str, Any], text: str) -> int:
    """Print an answer as JSON if that is wanted, else as ``text``."""
    say(json_line(answer) if question.args.json else text)
    return 0


# -- how the service is -------------------------------------------------------------------------------------------


def _status(question: Question) -> int:
    answer = question.client.get("/status")
    return show(question, answer, fields(answer))


def _healthcheck_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--live", action="store_true", help="ask only whether it is alive, not whether it is ready")
    parser.add_argument("--wait-s", type=number, metavar="S", default=0, help="ask again for so long until it is")


def _healthcheck(question: Question) -> int:
    page = "/livez" if question.args.live else "/readyz"
    answer = _asked_until_it_is(question.client, page, question.args.wait_s)
    if answer.status == 200:
        say("alive" if question.args.live else "ready")
        return 0
    reasons = answer.body.get("reasons")
    detail = "; ".join(f"{name}: {reason}" for name, reason in reasons.items()) if isinstance(reasons, dict) else ""
    complain(BackhaulError("cli.not_ready", detail or f"{page} answered {answer.status}"))
    return 1


def _asked_until_it_is(client: ServiceClient, page: str, wait_s: int) -> Answer:
    """The first answer that is 200, or the last one within ``wait_s``; raises as the last try does."""
    end_s = time.monotonic() + wait_s  # noqa: TID251  a command has no loop
    while True:
        is_last = time.monotonic() >= end_s  # noqa: TID251
        try:
            answer = client.ask("GET", page)
            if is_last or answer.status == 200:
                return answer
        except BackhaulError:
            if is_last:
                raise
        time.sleep(_ASK_AGAIN_S)  # noqa: TID251


# -- events -------------------------------------------------------------------------------------------------------


def _tail_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--entity", metavar="TYPE|ID", help="only this entity's events")
    parser.add_argument("--type", metavar="TYPE", help="only events of entities of this type")
    parser.add_argument("--tag", metavar="TAG", help="only events with this tag")
    parser.add_argument("--topic", metavar="TOPIC", help="only events with a topic that this MQTT expression matches")
    parser.add_argument(
        "--since", metavar="TIME", help="stored from then on: 90s, 15m, 2h, 3d ago, or an ISO time (UTC)"
    )
    parser.add_argument("--until", metavar="TIME", help="stored before then, in the same form")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--after", type=number, metavar="P", help="begin behind this position (or number, of an entity)")
    where.add_argument(
        "--last", type=number, metavar="N", help="begin with the last N events (default: 10, with --since all)"
    )
    parser.add_argument("--follow", "-f", action="store_true", help="go on with new events until interrupted")


def _tail(question: Question) -> int:
    for event in _tailed(question):
        say(json_line(event))
    return 0


def _tailed(question: Question) -> Iterator[dict[str, Any]]:
    """Events up to the end as it was at the beginning, or without end. One page is held at a time."""
    args, client = question.args, question.client
    conditions = {name: getattr(args, name) for name in ("type", "tag", "topic")}
    conditions |= {name: _time_us(name, getattr(args, name)) for name in ("since", "until")}
    if args.follow and args.until:
        raise BackhaulError("cli.usage", "--follow has no end, --until is one", "leave one of them out")
    suffix = "_seq_nr" if args.entity and not any(value is not None for value in conditions.values()) else ""
    place = {f"after{suffix}": args.after} if args.after is not None else {}
    if args.last is not None or not (place or args.since):
        place = {"last": 10 if args.last is None else args.last}
    asked: dict[str, str | int | None] = {"entity": args.entity, "max": _PAGE, **conditions}
    page = client.get("/v1/events", **asked, **place)
    end = page.get("end", page[f"head{suffix}"])
    if page.get("searched_after") and len(page["events"]) < place["last"]:
        complain_of(
            f"the log up to position {page['searched_after']} was not looked through; --after 0 reads all of it"
        )
    while True:
        yield from ({"deleted": stated} for stated in page.get("deleted", ()))
        yield from page["events"]
        through = page[f"through{suffix}"]
        if through >= end and not args.follow:
            return
        wait_s = _FOLLOW_S if args.follow else None
        page = client.get("/v1/events", **asked, wait_s=wait_s, **{f"after{suffix}": through})


def _time_us(name: str, text: str | None) -> int | None:
    if text is None:
        return None
    found = parse_since(text, time.time_ns() // 1000)  # noqa: TID251  a command has no service around it
    if found is None or found < 0:
        raise BackhaulError("cli.usage", f"--{name} {text} is no time", "90s, 15m, 2h, 3d or 2026-01-31T03:00")
    return found


def _where_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("event", metavar="TYPE|ID:SEQ", help="an entity and the number of one of its events")
    parser.add_argument("--origin", metavar="EDGE", help="the number is the one that the event has at this edge")
    json_flag(parser)


def _origin(question: Question) -> dict[str, str]:
    return {"origin": question.args.origin} if question.args.origin else {}


def _where(question: Question) -> int:
    entity, colon, seq_nr = question.args.event.rpartition(":")
    if not colon or not seq_nr.isdecimal():
        raise BackhaulError("cli.usage", f"{question.args.event!r} is not TYPE|ID:SEQ", "for example 'Sensor|temp1:7'")
    answer = question.client.get("/v1/where", entity=entity, seq_nr=seq_nr, **_origin(question))
    show(question, answer, fields(answer))
    return 1 if answer.get("state") in ("unknown", "missing") else 0


ASKING: Final = (
    Command(
        ("status",),
        "show the journal, the link or the edges, projections, subscriptions and consumers",
        _status,
        json_flag,
    ),
    Command(
        ("healthcheck",),
        "exit 0 when the service is ready for requests, 1 when it is not",
        _healthcheck,
        _healthcheck_arguments,
        timeout_s=3.0,
    ),
    Command(("tail",), "print events as JSON lines", _tail, _tail_arguments),
    Command(
        ("where",), "tell where one event is: stored, deleted, parked …; exit 1 if unknown", _where, _where_arguments
    ),
)


# -- parked events ------------------------------------------------------------------------------------------------


def _list_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--origin", metavar="ID", help="only those of this edge")
    parser.add_argument("--after", type=number, metavar="ID", default=0, help="begin behind this row")
    parser.add_argument("--max", type=number, metavar="N", default=100, help="at most so many (default: 100)")
    json_flag(parser)


def _parked_list(question: Question) -> int:
    args = question.args
    answer = question.client.get("/v1/parked", origin=args.origin, after=args.after, max=args.max)
    return show(question, answer, table(answer["parked"]))


def _row_argument(parser: ArgumentParser) -> None:
    parser.add_argument("id", type=number, help="the row, as `parked list` shows it")
    json_flag(parser)


def _parked_show(question: Question) -> int:
    answer = question.client.get(f"/v1/parked/{question.args.id}")
    return show(question, answer, fields(answer))


def _parked_discard(question: Question) -> int:
    answer = question.client.post(f"/v1/parked/{question.args.id}/discard", {})
    return show(question, answer, f"discarded row {question.args.id}; its number is kept as never to come")


def _retry_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("entity", metavar="TYPE|ID", help="the entity whose parked events are judged again")
    parser.add_argument(
        "--accept-gap", action="store_true", help="accept that the numbers before the first one are missing for good"
    )
    json_flag(parser)


def _parked_retry(question: Question) -> int:
    args = question.args
    answer = question.client.post("/v1/parked/retry", {"entity": args.entity, "accept_gap": args.accept_gap})
    left = answer.get("left")
    detail = (
        f"; the next one stays: {left}" if left else "" if answer["stored"] else f": nothing of {args.entity} is parked"
    )
    show(question, answer, f"stored {answer['stored']}{detail}")
    return 1 if left else 0


PARKED: Final = (
    Command(("parked", "list"), "list events that were set aside", _parked_list, _list_arguments),
    Command(("parked", "show"), "show one with its payload", _parked_show, _row_argument),
    Command(
        ("parked", "retry"),
        "judge an entity's parked events again; exit 1 if some stay",
        _parked_retry,
        _retry_arguments,
    ),
    Command(
        ("parked", "discard"), "drop the first parked event of its entity for good", _parked_discard, _row_argument
    ),
)


# -- origins --------------------------------------------------------------------------------------------------------


def _origins_list(question: Question) -> int:
    answer = question.client.get("/v1/origins")
    return show(question, answer, table(answer["origins"]))


def _origin_argument(parser: ArgumentParser) -> None:
    parser.add_argument("id", help="the edge's id")
    json_flag(parser)


def _origins_readmit(question: Question) -> int:
    answer = question.client.post(f"/v1/origins/{path_segment(question.args.id)}/readmit", {})
    return show(question, answer, f"{question.args.id} may come back with any journal it had")


ORIGINS: Final = (
    Command(
        ("origins", "list"), "list the edges that were ever seen, and how far each is stored", _origins_list, json_flag
    ),
    Command(
        ("origins", "readmit"),
        "let an edge back in with a journal that another one had replaced",
        _origins_readmit,
        _origin_argument,
    ),
)
