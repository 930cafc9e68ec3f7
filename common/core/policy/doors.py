"""Which HTTP requests a local door lets in: a page in a browser is not a local program.

A browser sends what any web page asks it to send, to loopback too. Two headers say for whom: ``Origin`` and
``Sec-Fetch-Site``; a page that has its own name resolved to loopback (DNS rebinding) shows that name as ``Host``; and
a request that needs no preflight has a form's content type, or none. Each of the three is asked, so that no one of
them has to be complete.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from common.core.addresses import is_loopback
from common.core.errors import BackhaulError, ErrorKind

ANY_HOST: Final = "*"
# Asked by kubelets, balancers and Prometheus under whatever address they know.
PROBE_PATHS: Final = frozenset({"/livez", "/readyz", "/metrics"})
BODY_TYPES: Final = frozenset(
    {"application/json", "application/cloudevents+json", "application/cloudevents-batch+json"},
)
_READING: Final = frozenset({"GET", "HEAD"})
# The "method" with which each HTTP/2 connection begins (RFC 9113, 3.4).
_HTTP2_PREFACE: Final = "PRI"
_SHOWN_CHARS: Final = 80


@dataclass(frozen=True, slots=True)
class Door:
    """What one HTTP port lets in. ``hosts``: names beside loopback that it is asked under, lower case; "*" is any.

    ``body_types`` are media types, lower case.
    """

    hosts: frozenset[str] = frozenset()
    body_types: frozenset[str] = BODY_TYPES

    @classmethod
    def under(cls, names: Collection[str]) -> Door:
        """A door that is asked under these names and addresses."""
        return cls(frozenset(name.lower().removesuffix(".") for name in names))

    def refusal(
        self, method: str, path: str, headers: Mapping[bytes, bytes], *, has_body: bool
    ) -> BackhaulError | None:
        """Why this request is not let in, or None. ``headers`` by lower-case name.

        Codes: ``http.http2_refused``, ``http.host_refused``, ``http.origin_refused``, ``http.body_type_refused``.
        """
        if method == _HTTP2_PREFACE:
            return _http2_refused()
        host = _text(headers, b"host")
        if path not in PROBE_PATHS and not self._knows(host):
            return _host_refused(host)
        origin = _text(headers, b"origin")
        if origin and not _is_same(origin, host):
            return _origin_refused(f"a page of {origin[:_SHOWN_CHARS]!r}")
        site = _text(headers, b"sec-fetch-site").lower()
        if site == "cross-site" or (site == "same-site" and method not in _READING):
            return _origin_refused(f"a page of another site ({site})")
        return self._body_refusal(_text(headers, b"content-type"), method, has_body=has_body)

    def _knows(self, host: str) -> bool:
        name = _name_of(host)
        return is_loopback(name) or name in self.hosts or ANY_HOST in self.hosts

    def _body_refusal(self, content_type: str, method: str, *, has_body: bool) -> BackhaulError | None:
        if not has_body and (not content_type or method in _READING):
            return None
        media_type = content_type.partition(";")[0].strip().lower()
        if media_type in self.body_types:
            return None
        return BackhaulError(
            "http.body_type_refused",
            f"the content type {content_type[:_SHOWN_CHARS]!r} is not taken",
            "send the header `content-type: application/json` (curl: --json)",
            details={"content_type": content_type[:_SHOWN_CHARS]},
        )


def _text(headers: Mapping[bytes, bytes], name: bytes) -> str:
    return headers.get(name, b"").decode("latin-1").strip()


def _name_of(host: str) -> str:
    """The name or address in a ``Host`` header, without port and brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower().removesuffix(".")


def _is_same(origin: str, host: str) -> bool:
    """Whether a page of this origin was loaded from here: by a proxy perhaps, so whatever its scheme."""
    scheme, separator, authority = origin.lower().partition("://")
    return bool(separator) and scheme in ("http", "https") and authority == host.lower()


def _http2_refused() -> BackhaulError:
    return BackhaulError(
        "http.http2_refused",
        "HTTP/2 came to a port that speaks HTTP/1.1",
        "an edge or a program with gRPC asks at the gRPC port",
    )


def _host_refused(host: str) -> BackhaulError:
    return BackhaulError(
        "http.host_refused",
        f"this service is not asked under the name {host[:_SHOWN_CHARS]!r}"
        if host
        else "the request has no Host header",
        "ask it at localhost, or add the name to http_hosts",
        kind=ErrorKind.FORBIDDEN,
        details={"host": host[:_SHOWN_CHARS]},
    )


def _origin_refused(whose: str) -> BackhaulError:
    return BackhaulError(
        "http.origin_refused",
        f"the request was made by {whose}",
        "pages of other origins may not ask this service; put them behind the same name as it",
        kind=ErrorKind.FORBIDDEN,
    )
