"""Which requests a local door lets in."""

import pytest

from common.core.policy.doors import PROBE_PATHS, Door

JSON = b"application/json"


def refusal(method: str = "POST", path: str = "/v1/events", hosts: tuple[str, ...] = (), **headers: str) -> str:
    """The code a request is refused with, or ''. Names with an underscore for a dash; there is a body if a type says so."""
    given = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
    has_body = method == "POST" and given.get(b"content-length") != b"0"
    refused = Door.under(hosts).refusal(method, path, {b"host": b"localhost"} | given, has_body=has_body)
    return refused.code if refused else ""


class TestHost:
    @pytest.mark.parametrize(
        "host", ["localhost", "LocalHost:7580", "localhost.", "127.0.0.1:7580", "127.9.9.9", "[::1]:7580", "[::1]"]
    )
    def test_loopback_is_let_in(self, host: str) -> None:
        assert refusal("GET", host=host) == ""

    @pytest.mark.parametrize(
        "host",
        ["", "evil.example", "localhost.evil.example", "127.0.0.1.evil.example:7580", "0.0.0.0", "10.0.0.1", "[::2]"],
    )
    def test_another_name_is_refused_except_by_probes(self, host: str) -> None:
        assert refusal("GET", host=host) == "http.host_refused"
        assert [refusal("GET", path, host=host) for path in sorted(PROBE_PATHS)] == ["", "", ""]
        assert refusal("GET", "/metrics/..", host=host) == "http.host_refused"

    def test_a_client_of_another_protocol_is_told_so(self) -> None:
        assert refusal("PRI", "*", host="") == "http.http2_refused"

    def test_names_of_the_setting_are_let_in_and_a_star_is_every_name(self) -> None:
        assert refusal("GET", host="Cloud.Example.:7480", hosts=("cloud.example",)) == ""
        assert refusal("GET", host="a.cloud.example", hosts=("cloud.example",)) == "http.host_refused"
        assert refusal("GET", host="any.example", hosts=("*",)) == ""


class TestOrigin:
    @pytest.mark.parametrize(
        "origin", ["http://evil.example", "null", "http://localhost:3000", "file://", "localhost", "ftp://localhost"]
    )
    @pytest.mark.parametrize("method", ["GET", "POST"])
    def test_a_foreign_one_is_refused(self, method: str, origin: str) -> None:
        assert refusal(method, origin=origin, content_type="application/json") == "http.origin_refused"

    def test_the_hosts_own_is_let_in_also_behind_a_proxy_with_tls(self) -> None:
        for origin in ("http://localhost:7580", "https://LOCALHOST:7580"):
            assert refusal(host="localhost:7580", origin=origin, content_type="application/json") == ""

    def test_a_page_of_another_site_is_refused_without_an_origin_too(self) -> None:
        assert refusal("GET", sec_fetch_site="cross-site") == "http.origin_refused"
        assert refusal(sec_fetch_site="same-site", content_type="application/json") == "http.origin_refused"
        for site in ("same-origin", "none", "same-site"):
            assert refusal("GET", sec_fetch_site=site) == ""


class TestBody:
    @pytest.mark.parametrize(
        "content_type",
        [
            "",
            "text/plain",
            "text/plain;application/json",
            "application/x-www-form-urlencoded",
            "multipart/form-data; b=1",
        ],
    )
    def test_what_a_form_can_send_is_refused(self, content_type: str) -> None:
        assert refusal(content_type=content_type) == "http.body_type_refused"

    @pytest.mark.parametrize(
        "content_type",
        ["application/json", "Application/JSON; charset=utf-8", "application/cloudevents+json"],
    )
    def test_json_is_taken(self, content_type: str) -> None:
        assert refusal(content_type=content_type) == ""

    def test_a_request_without_a_body_needs_no_type_and_may_have_no_forms(self) -> None:
        assert refusal(content_length="0") == ""
        assert refusal(content_length="0", content_type="text/plain") == "http.body_type_refused"
        assert refusal("GET", content_type="text/plain") == ""
