"""Where a journal is kept, and that its password is shown nowhere."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from common.core.journal.url import JournalUrl, parse_journal_url, redact, redact_within

# The secret's parts are marked, so that a part of it is found wherever a reader would have cut it.
SECRETS = st.lists(st.sampled_from("#/?@%:&='\\ ,[]+é"), min_size=0, max_size=8).map(
    lambda marks: "SECRET" + "".join(f"{mark}SECRET" for mark in marks)
)


@given(SECRETS)
@example("SECRET@SECRET:1/SECRET")
@example("SECRET?user=SECRET@SECRET/db")
@example("SECRET%zz")
def test_no_part_of_a_password_as_it_is_in_a_url_is_shown(secret: str) -> None:
    for text in (
        f"postgresql://me:{secret}@db.example:5432/events?sslmode=require",
        f"POSTGRES://me:{secret}@db.example",
        f"postgresql://:{secret}@/events",
    ):
        assert_hidden(text)


@given(SECRETS.filter(lambda secret: "&" not in secret), st.sampled_from(["password", "sslpassword", "passfile"]))
def test_no_part_of_a_password_among_the_parameters_is_shown(secret: str, key: str) -> None:
    assert_hidden(f"postgresql://me@db.example/events?{key}={secret}&sslmode=require")
    assert_hidden(f"postgresql://me@db.example/events?{key}={quote(secret, safe='')}&sslmode=require")


@given(SECRETS, st.sampled_from(["password", "sslpassword", "passfile"]))
def test_no_part_of_a_password_among_keywords_is_shown(secret: str, key: str) -> None:
    quoted = "'" + secret.replace("\\", "\\\\").replace("'", "\\'") + "'"
    text = f"host=db.example {key}={quoted} user=me"
    assert_hidden(text)
    assert parse_journal_url(text).kind == "postgresql"
    assert_hidden(f"host=db.example {key} = {secret} user=me")
    assert_hidden(f"{key}={quoted} host=db.example")
    assert_hidden(f"host=db.example {key}='{secret}")


def assert_hidden(text: str) -> None:
    assert "SECRET" not in redact(text)
    try:
        url = parse_journal_url(text)
    except ValueError as error:
        shown = str(error)
    else:
        shown = f"{url} {url!r} {url.place}"
        assert not url.is_file
    assert "SECRET" not in shown


@given(SECRETS)
def test_no_part_of_a_password_within_another_text_is_shown(secret: str) -> None:
    quoted = "'" + secret.replace("\\", "\\\\").replace("'", "\\'") + "'"
    for text in (
        f"postgresql://me:{secret.replace(' ', '')}@db.example/events",
        f"amqp://me:{secret.replace(' ', '')}@db.example/events",
        f"host=db.example password = {quoted} user=me",
        f"sslpassword={quoted}",
    ):
        for within in (f"cannot use {text}: no", f"cannot use '{text}'", f'"{text}"', text):
            assert "SECRET" not in redact_within(within)


def test_a_text_without_a_password_is_left_alone() -> None:
    for text in ("see https://docs.example/a?b=c@d, please", "postgresql://me@host/db, and so on", "pass it on = yes"):
        assert redact_within(text) == text


@given(SECRETS)
def test_the_driver_gets_the_password_that_was_written(secret: str) -> None:
    from asyncpg.connect_utils import _parse_connect_dsn_and_args as driver_reads

    quoted = "'" + secret.replace("\\", "\\\\").replace("'", "\\'") + "'"
    for text in (
        f"postgresql://me:{quote(secret, safe='')}@db.example:5433/events?sslmode=require",
        f"postgresql:///events?host=db.example&port=5433&user=me&password={quote(secret, safe='')}&sslmode=require",
        f"host=db.example port=5433 dbname=events user=me password={quoted} sslmode=require",
    ):
        hosts, read = driver_reads(
            dsn=parse_journal_url(text).target, host=None, port=None, user=None, password=None, passfile=None,
            database=None, ssl=None, service=None, servicefile=None, direct_tls=None, server_settings=None,
            target_session_attrs=None, krbsrvname=None, gsslib=None,
        )  # fmt: skip
        assert hosts == [("db.example", 5433)]
        assert (read.user, read.password, read.database) == ("me", secret, "events")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:secret@host/db", "postgresql://me:***@host/db"),
        ("postgres://me:se@cret@host/db", "postgresql://me:***@host/db"),
        ("postgresql://host/db?password=secret&sslmode=require", "postgresql://:***@host/db?sslmode=require"),
        ("postgresql://me@host/db", "postgresql://me@host/db"),
        ("postgresql://a:5432,[::1]:5433/db?target_session_attrs=read-write",) * 2,
        ("postgresql://me@%2Frun%2Fpg/db", "postgresql://me@%2Frun%2Fpg/db"),
        ("host=a,b port=1,2 dbname=db user=me password=x", "postgresql://me:***@a:1,b:2/db"),
        ("postgresql://", "postgresql://"),
        ("/var/lib/edge.db", "/var/lib/edge.db"),
    ],
)
def test_what_is_shown_of_a_place(text: str, shown: str) -> None:
    assert str(parse_journal_url(text)) == shown


@pytest.mark.parametrize("path", ["postgres-edge.db", "postgresql.db", "hostname=x", "a=b", "./host=x", "C:/edge.db"])
def test_a_path_is_a_path_whatever_it_is_called(path: str) -> None:
    assert parse_journal_url(path) == JournalUrl("sqlite", path, path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("mysql://me:secret@host/db", "no journal is kept at a mysql:// URL"),
        ("postgresql:events", "the // after postgresql: is missing"),
        ("postgresql://me:se#cret@host/db", "write # as %23"),
        ("postgresql://me:se/cret@host/db", "write # as %23"),
        ("postgresql://me:secret@host:x/db", "a host or port of it cannot be read"),
        ("postgresql://host/db?sslmode", "key=value"),
        ("host=a port=x", "no number from 1 to 65535"),
        ("postgresql://me:secret@a,b/db?target_session_attrs=standby", "leave target_session_attrs out"),
        ("host=a port=1,2", "not as many ports as hosts"),
        ("host=a password='b", "keywords must be key=value"),
        ("", "the path of a SQLite file"),
    ],
)
def test_what_names_no_place_is_refused_by_what_is_wrong(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        parse_journal_url(text)
    assert "secret" not in str(caught.value)
    assert "write ***" not in redact_within(str(caught.value))  # as the log has it


@pytest.mark.parametrize(
    ("text", "is_private"),
    [
        ("edge.db", True),
        ("postgresql://localhost/db", True),
        ("postgresql:///db", True),
        ("postgresql://%2Frun%2Fpg:5433/db", True),
        ("postgresql://127.0.0.1:1,[::1]:2/db", True),
        ("postgresql://127.0.0.1,db.example/db", False),
        ("postgresql://db.example/db?sslmode=require", False),
        ("postgresql://db.example/db?sslmode=verify-full", True),
        ("host=db.example sslmode=verify-ca", True),
    ],
)
def test_what_nobody_between_can_read(text: str, *, is_private: bool) -> None:
    assert parse_journal_url(text).is_private is is_private
