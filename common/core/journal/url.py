"""Where a journal is kept: a SQLite file, or a database of PostgreSQL. Parsed once, carried as a value, shown redacted.

The text of a setting is one of

- a URL `postgresql://user:password@host:port,host:port/database?key=value` (also `postgres://`),
- libpq's keywords `host=… port=… dbname=… user=… password='…'`,
- anything else without `://`: the path of a SQLite file.

A URL is read strictly. Several readers would disagree where a password ends that holds `/`, `?` or `#` as they are: such a
URL is refused, and nothing of it is ever shown. What was read is written anew for the driver, every part percent-encoded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import cycle
from typing import Final, Literal
from urllib.parse import quote, unquote, unquote_plus

from common.core.addresses import is_loopback

JournalKind = Literal["sqlite", "postgresql"]

REDACTED: Final = "***"

_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(//)?")
_POSTGRES: Final = frozenset({"postgresql", "postgres"})
_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[^\[\]:,\s]*)(?::([0-9]{1,5}))?")
_KEY: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")
_VERIFIED: Final = frozenset({"verify-ca", "verify-full"})
# libpq's words for a connection; a text that begins with one of them and `=` is no path.
_KEYWORDS: Final = frozenset(
    {
        "host", "hostaddr", "port", "dbname", "database", "user", "password", "passfile", "service", "options",
        "sslmode", "sslcert", "sslkey", "sslrootcert", "sslcrl", "sslpassword", "sslnegotiation", "ssl_min_protocol_version",
        "ssl_max_protocol_version", "application_name", "target_session_attrs", "connect_timeout", "channel_binding",
        "gssencmode", "krbsrvname", "require_auth",
    }
)  # fmt: skip
# Of several hosts. A journal is written, so each of these means the one that may be.
_SERVERS: Final = frozenset({"read-write", "primary", "any"})
_FIRST_KEYWORD: Final = re.compile(r"\s*([a-z_]+)\s*=")
_QUOTED: Final = re.compile(r"'((?:[^'\\]|\\.)*)'(?=\s|$)", re.DOTALL)
_BARE: Final = re.compile(r"(?:[^\s'\\]|\\.)*(?=\s|$)", re.DOTALL)

_URL_WITHIN: Final = re.compile(r"(?i)\bpostgres(?:ql)?://\S+?(?=['\"),.;]*(?:\s|$))")
_USER_INFO_WITHIN: Final = re.compile(r"(://[^/\s:@]*):\S*@")
_KEYWORD_WITHIN: Final = re.compile(r"(?i)\b((?:ssl)?pass(?:word|file)?\s*=\s*)(?:'(?:[^'\\]|\\.)*'?\S*|\S+)")

_EXPECTATION: Final = "write postgresql://user:password@host:5432/database, or the path of a SQLite file"
_ENCODE: Final = "write # as %23, / as %2F, ? as %3F and @ as %40 in a user, password or value"


@dataclass(frozen=True, slots=True)
class JournalUrl:
    """The place of a journal.

    `target` is what opens it: the path, or the URL for the driver, with its password. Everything that is shown
    (`str`, `repr`) has the password replaced.
    """

    kind: JournalKind
    target: str = field(repr=False)
    shown: str
    hosts: tuple[str, ...] = ()
    database: str = ""
    sslmode: str = ""

    @property
    def is_file(self) -> bool:
        """Whether it is a file of this machine, with one process at a time and a byte cap."""
        return self.kind == "sqlite"

    @property
    def data_folder(self) -> str:
        """The folder of a file that is named by its absolute path, as a volume's is; else empty."""
        return (self.target.rpartition("/")[0] or "/") if self.is_file and self.target.startswith("/") else ""

    @property
    def is_private(self) -> bool:
        """Whether nobody between here and the journal can read it: on this machine, or over TLS with a verified server."""
        hosts = (host for host in self.hosts if not host.startswith("/"))
        return self.sslmode in _VERIFIED or all(is_loopback(_name(host)) for host in hosts)

    @property
    def place(self) -> str:
        """Path, or hosts and database: for messages that name no user."""
        if self.is_file:
            return self.target
        return f"{','.join(self.hosts) or 'local socket'}/{self.database}".rstrip("/")

    def __str__(self) -> str:
        return self.shown


def parse_journal_url(text: str) -> JournalUrl:
    """What the text of a setting names.

    Raises:
        ValueError: with what to write instead; never with a part of the text that may be secret.
    """
    scheme = _SCHEME.match(text)
    if scheme and (scheme[2] or scheme[1].lower() in _POSTGRES):
        if scheme[1].lower() not in _POSTGRES:
            raise ValueError(f"no journal is kept at a {scheme[1]}:// URL: {_EXPECTATION}")
        if not scheme[2]:
            raise ValueError(f"the // after {scheme[0]} is missing: {_EXPECTATION}")
        if not text.isprintable():
            raise ValueError(f"a character of it is not printable: {_ENCODE}")
        return _parse_url(text[scheme.end() :])
    keyword = _FIRST_KEYWORD.match(text)
    if keyword and keyword[1] in _KEYWORDS:
        return _compose((), "", _keywords(text))
    if not text or "\0" in text or not text.isprintable():
        raise ValueError(_EXPECTATION)
    return JournalUrl("sqlite", text, text)


def redact(text: str) -> str:
    """The text of a journal setting without its password; `***` for what cannot be read with certainty."""
    try:
        return str(parse_journal_url(text))
    except ValueError:
        return REDACTED


def redact_within(text: str) -> str:
    """A text of any kind, such as a driver's message, with the passwords of URLs and keywords in it replaced."""
    if "://" in text:
        text = _URL_WITHIN.sub(lambda found: redact(found[0]), text)
        text = _USER_INFO_WITHIN.sub(rf"\1:{REDACTED}@", text)
    return _KEYWORD_WITHIN.sub(rf"\1{REDACTED}", text) if "pass" in text.lower() else text


def _parse_url(rest: str) -> JournalUrl:
    main, mark, query = rest.partition("?")
    authority, slash, database = main.partition("/")
    user_info, at, host_text = authority.rpartition("@")
    if "#" in rest or "@" in database or "/" in database or "@" in query or "?" in query:
        raise ValueError(_ENCODE)
    user, colon, password = user_info.partition(":")
    pairs: dict[str, str] = {}
    for entry in query.split("&") if mark and query else ():
        key, equals, value = entry.partition("=")
        if not equals or not _KEY.fullmatch(key):
            raise ValueError(f"what follows the ? must be key=value&key=value: {_ENCODE}")
        pairs[key] = unquote_plus(value)
    if at:
        pairs["user"] = unquote(user)
    if colon:
        pairs["password"] = unquote(password)
    return _compose(_hosts(host_text), unquote(database) if slash else "", pairs)


def _hosts(text: str) -> tuple[str, ...]:
    """Each `host`, `host:port`, `[v6]:port`; a host that begins with `/` is the directory of a socket."""
    found = []
    for part in text.split(",") if text else ():
        match = _HOST.fullmatch(part)
        if not match or (match[2] and not 0 < int(match[2]) < 65_536):
            raise ValueError(f"a host or port of it cannot be read: {_ENCODE}")
        found.append(unquote(part))
    return tuple(found)


def _keywords(text: str) -> dict[str, str]:
    """libpq's `key = value` pairs; a value may stand in single quotes, a backslash takes the next character as it is."""
    pairs: dict[str, str] = {}
    rest = text.strip()
    while rest:
        key, equals, after = rest.partition("=")
        after = after.lstrip()
        match = (_QUOTED if after.startswith("'") else _BARE).match(after)
        if not equals or not _KEY.fullmatch(key.strip()) or match is None:
            raise ValueError(
                "keywords must be key=value, with blanks between them; write a value with blanks in 'quotes'"
            )
        value = match[1] if match.re is _QUOTED else match[0]
        pairs[key.strip()] = re.sub(r"\\(.)", r"\1", value, flags=re.DOTALL)
        rest = after[match.end() :].lstrip()
    return pairs


def _compose(hosts: tuple[str, ...], database: str, pairs: dict[str, str]) -> JournalUrl:
    """The value for what was read. Hosts, ports and database among the pairs hold where the URL names none."""
    hosts = hosts or _named_hosts(pairs.pop("host", ""), pairs.pop("port", ""))
    database = database or pairs.pop("dbname", "") or pairs.pop("database", "")
    user, password = pairs.pop("user", ""), pairs.pop("password", None)
    if pairs.get("target_session_attrs", "read-write") not in _SERVERS:
        raise ValueError("a journal is written: leave target_session_attrs out, or write read-write")
    return JournalUrl(
        "postgresql",
        _written(hosts, database, user, password, pairs),
        _written(hosts, database, user, password if password is None else REDACTED, _without_secrets(pairs)),
        hosts,
        database,
        pairs.get("sslmode", ""),
    )


def _named_hosts(hosts_text: str, ports_text: str) -> tuple[str, ...]:
    """libpq's lists of hosts and ports, as `host:port` each."""
    hosts = [f"[{host}]" if ":" in host else host for host in hosts_text.split(",")] if hosts_text else []
    ports = ports_text.split(",") if ports_text else []
    if not all(port.isascii() and port.isdigit() and 0 < int(port) < 65_536 for port in ports):
        raise ValueError("a port of it is no number from 1 to 65535")
    if ports and len(ports) not in (1, len(hosts)):
        raise ValueError("it has not as many ports as hosts: write one port, or one for each host")
    if not ports:
        return tuple(hosts)
    return tuple(f"{host}:{port}" for host, port in zip(hosts or [""], cycle(ports), strict=False))


def _written(hosts: tuple[str, ...], database: str, user: str, password: str | None, pairs: Mapping[str, str]) -> str:
    def encoded(text: str) -> str:
        return quote(text, safe="*")

    user_info = encoded(user) + (f":{encoded(password)}" if password is not None else "")
    at = "@" if user_info else ""
    query = "&".join(f"{key}={encoded(value)}" for key, value in pairs.items())
    where = ",".join(quote(host, safe=":[]") for host in hosts)
    path = f"/{encoded(database)}" if database else ""
    return f"postgresql://{user_info}{at}{where}{path}" + (f"?{query}" if query else "")


def _without_secrets(pairs: Mapping[str, str]) -> dict[str, str]:
    """The pairs with passwords, and what an unescaped `&` in one may have cut off, replaced."""
    shown: dict[str, str] = {}
    for key, value in pairs.items():
        is_secret = "pass" in key.lower() or (key not in _KEYWORDS and REDACTED in shown.values())
        shown[key] = REDACTED if is_secret else value
    return shown


def _name(host: str) -> str:
    """A host without port and brackets; none is this machine's socket."""
    match = _HOST.fullmatch(host)
    return (match[1].strip("[]") if match else host) or "localhost"
