"""Settings: precedence, units, refusals that name key, value, expectation and origin, and nothing secret shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud_service.settings import CloudSettings
from common.core.addresses import Address, PeerAddress
from common.core.errors import ConfigurationError
from common.core.journal.url import JournalUrl
from common.core.policy.identity import IdentityRule
from common.runtime.environment import tls_files
from common.runtime.settings.loading import Loaded, about, describe, load
from common.runtime.settings.values import Shape, parse, shape_of, shown
from edge_service.settings import EdgeSettings

MIB = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Sample:
    name: str = field(metadata=about("A required text."))
    size_bytes: int = field(default=MIB, metadata=about("A size.", minimum=1024))
    wait_s: float = field(default=1.0, metadata=about("A duration.", maximum=60))
    loud: bool = field(default=False, metadata=about("A switch."))
    things: tuple[str, ...] = field(default=("a",), metadata=about("A list."))
    place: Path | None = field(default=None, metadata=about("A path, or none."))
    password: str | None = field(default=None, metadata=about("A secret.", secrecy="secret"))


def load_sample(
    flags: Sequence[str] = (), environ: Mapping[str, str] | None = None, file: Path | None = None
) -> Loaded[Sample]:
    return load(Sample, "APP", flags, {"APP_NAME": "n"} | dict(environ or {}), file)


def refused(
    flags: Sequence[str] = (), environ: Mapping[str, str] | None = None, file: Path | None = None
) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        load_sample(flags, environ, file)
    return caught.value


def toml(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "settings.toml"
    path.write_text(text)
    return path


def test_flag_beats_environment_beats_file_beats_default(tmp_path: Path) -> None:
    file = toml(tmp_path, 'name = "file"\nsize_bytes = "2MiB"\nwait_s = 2\nloud = true\nthings = ["x", "y"]\n')
    loaded = load_sample(["--name", "flag"], {"APP_NAME": "env", "APP_WAIT_S": "500ms"}, file)
    assert loaded.settings == Sample(name="flag", size_bytes=2 * MIB, wait_s=0.5, loud=True, things=("x", "y"))
    assert loaded.origins["name"] == "flag --name"
    assert loaded.origins["wait_s"] == "environment APP_WAIT_S"
    assert loaded.origins["loud"] == f"file {file}"
    assert loaded.origins["place"] == "default"


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--loud"], True),
        (["--loud=yes"], True),
        (["--loud", "false"], False),
        (["--no-loud"], False),
        (["--loud", "--wait-s=3"], True),
    ],
)
def test_a_boolean_flag_needs_no_value(flags: list[str], expected: bool) -> None:
    assert load_sample(flags).settings.loud is expected


@pytest.mark.parametrize("how", ["flag", "equals", "environment"])
def test_the_settings_file_is_named_by_flag_or_environment(tmp_path: Path, how: str) -> None:
    file = toml(tmp_path, "loud = true")
    flags = {"flag": ["--config", str(file)], "equals": [f"--config={file}"], "environment": []}[how]
    environ = {"APP_CONFIG": str(file)} if how == "environment" else {}
    assert load_sample(flags, environ).settings.loud is True


def test_unknown_names_are_refused_with_the_nearest_known_one(tmp_path: Path) -> None:
    assert "did you mean APP_SIZE_BYTES?" in refused(environ={"APP_SIZE_BYTE": "1"}).hint
    assert "did you mean --wait-s?" in refused(["--wait", "1"]).hint
    error = refused(file=toml(tmp_path, "[tables]\nloud = true"))
    assert (error.code, error.details["setting"]) == ("settings.unknown_key", "tables")


def test_variables_of_kubernetes_services_of_the_same_name_are_ignored() -> None:
    links = {
        "APP_SERVICE_HOST": "1",
        "APP_SERVICE_PORT_GRPC": "1",
        "APP_PORT": "tcp://10.0.0.1:80",
        "APP_PORT_1_TCP_ADDR": "x",
    }
    assert load_sample(environ=links).settings == Sample(name="n")
    assert refused(environ={"APP_PORTS": "1"}).code == "settings.unknown_key"


@pytest.mark.parametrize(
    ("variable", "text", "expectation"),
    [
        ("APP_SIZE_BYTES", "1", "a size in bytes such as 512KiB or 64MiB of at least 1KiB"),
        ("APP_SIZE_BYTES", "-5MiB", "a size in bytes such as 512KiB or 64MiB of at least 1KiB"),
        ("APP_WAIT_S", "61", "a duration in seconds such as 0.5, 10s, 5min or 24h of at most 60s"),
        ("APP_WAIT_S", "soon", "a duration in seconds such as 0.5, 10s, 5min or 24h of at most 60s"),
        ("APP_WAIT_S", "nan", "a duration in seconds such as 0.5, 10s, 5min or 24h of at most 60s"),
        ("APP_LOUD", "maybe", "true or false"),
        ("APP_NAME", "", "a text that is not empty"),
        ("APP_NAME", "a\nb", "a text that is not empty"),
        ("APP_THINGS", "a,,b", "a list (comma separated in an environment variable or flag)"),
    ],
)
def test_a_wrong_value_is_refused_with_origin_and_expectation(variable: str, text: str, expectation: str) -> None:
    error = refused(environ={variable: text})
    assert (error.code, error.hint) == ("settings.invalid_value", f"expected {expectation}")
    assert f"from environment {variable}" in error.message


def test_a_wrong_type_in_the_file_is_refused(tmp_path: Path) -> None:
    assert refused(file=toml(tmp_path, "place = 5")).code == "settings.invalid_value"
    assert refused(file=toml(tmp_path, 'things = ["a", 1]')).code == "settings.invalid_value"


def test_a_required_setting_that_is_missing_names_variable_and_flag() -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(Sample, "APP")
    assert caught.value.code == "settings.missing"
    assert "APP_NAME" in caught.value.hint
    assert "--name" in caught.value.hint


@pytest.mark.parametrize("content", ["name = ", b"\xff\xfe", None])
def test_an_unreadable_file_is_refused(tmp_path: Path, content: str | bytes | None) -> None:
    path = tmp_path / "settings.toml"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert refused(file=path).code == "settings.file_unreadable"


def test_a_secret_comes_from_a_file_and_is_never_shown(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hunter2\n")
    loaded = load_sample(environ={"APP_PASSWORD_FILE": str(secret)})
    assert loaded.settings.password == "hunter2"
    described = {line.key: line for line in describe(loaded)}
    assert described["password"].value == "***"
    assert described["password"].origin == f"environment APP_PASSWORD_FILE ({secret})"
    assert "hunter2" not in str(described)


def test_a_secret_given_twice_is_refused(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    error = refused(environ={"APP_PASSWORD": "y", "APP_PASSWORD_FILE": str(secret)})
    assert error.code == "settings.given_twice"


def test_only_secrets_have_files() -> None:
    assert refused(environ={"APP_NAME_FILE": "/etc/passwd"}).code == "settings.unknown_key"


def test_a_wrong_secret_is_not_repeated_in_the_message() -> None:
    error = refused(environ={"APP_PASSWORD": "hunter2\n"})
    assert error.code == "settings.invalid_value"
    assert "hunter2" not in str(error)


@given(st.integers(0, 10**15))
def test_a_size_is_shown_so_that_it_reads_back(size: int) -> None:
    shape = Shape("size")
    assert parse(shape, shown(shape, size)) == size


@given(st.integers(0, 10**12))
def test_a_duration_is_shown_so_that_it_reads_back(milliseconds: int) -> None:
    shape = Shape("duration")
    assert parse(shape, shown(shape, milliseconds / 1000)) == pytest.approx(milliseconds / 1000)


@given(st.text() | st.integers() | st.floats() | st.booleans() | st.lists(st.integers()))
def test_any_raw_value_is_a_value_or_a_value_error(raw: object) -> None:
    for annotation in (str, int, float, bool, Path, Address, PeerAddress, JournalUrl, tuple[str, ...]):
        for key in ("key", "key_s", "key_bytes"):
            try:
                parse(shape_of(key, annotation), raw)
            except ValueError:
                pass


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cloud:1", Address("cloud", 1)),
        ("cloud", Address("cloud", 7443)),
        ("[::1]:9", Address("::1", 9)),
        ("::1", Address("::1", 7443)),
        ("10.0.0.1:65535", Address("10.0.0.1", 65535)),
    ],
)
def test_addresses(text: str, expected: Address) -> None:
    shape = Shape("address", default_port=7443)
    assert parse(shape, text) == expected
    assert parse(shape, str(expected)) == expected


@pytest.mark.parametrize("text", ["", ":1", "a:", "a:0", "a:65536", "a:x", "http://a:1", "[::1", "[a]:1", "a b:1"])
def test_addresses_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="host:port"):
        parse(Shape("address", default_port=7443), text)


# -- the two services ----------------------------------------------------------------------------------------------


def edge(**environ: str) -> EdgeSettings:
    return load(EdgeSettings, "EDGE", environ={"EDGE_ID": "e1", "EDGE_CLOUD": "cloud.example"} | environ).settings


def cloud(**environ: str) -> CloudSettings:
    return load(CloudSettings, "CLOUD", environ=environ).settings


def test_three_settings_suffice_for_an_edge() -> None:
    settings = edge(EDGE_INSECURE="true")
    assert settings.cloud == PeerAddress((Address("cloud.example", 7443),))
    assert settings.entity_id_prefix == "e1/"
    assert (settings.http_host, settings.http_port, settings.grpc_port) == ("127.0.0.1", 7580, 7543)


def test_an_edge_refuses_plaintext_to_another_machine() -> None:
    with pytest.raises(ConfigurationError, match=r"cloud from environment EDGE_CLOUD") as caught:
        edge()
    assert caught.value.code == "settings.plaintext_refused"
    assert edge(EDGE_CLOUD="localhost:1").uses_tls is False
    assert edge(EDGE_TLS_CA="a", EDGE_TLS_CERT="b", EDGE_TLS_KEY="c").uses_tls is True


def test_a_cloud_needs_no_setting() -> None:
    assert cloud().grpc_port == 7443


@pytest.mark.parametrize("allowing", ["INSECURE", "INSECURE_LOCAL", "INSECURE_DATABASE"])
@pytest.mark.parametrize(
    ("variable", "value", "allowed_by"),
    [
        ("CLOUD_GRPC_HOST", "0.0.0.0", "INSECURE"),
        ("CLOUD_HTTP_HOST", "::", "INSECURE_LOCAL"),
        ("CLOUD_JOURNAL", "postgresql://me:secret@db.example/b", "INSECURE_DATABASE"),
        ("CLOUD_JOURNAL", "postgresql://me:secret@db.example/b?sslmode=require", "INSECURE_DATABASE"),
        ("CLOUD_SUBSCRIPTIONS", "orders@a.example:1", "INSECURE"),
        ("EDGE_CLOUD", "a.example:1,localhost:1", "INSECURE"),
        ("EDGE_SERVE", "0.0.0.0:1", "INSECURE"),
        ("EDGE_HTTP_HOST", "0.0.0.0", "INSECURE_LOCAL"),
        ("EDGE_GRPC_HOST", "192.0.2.1", "INSECURE_LOCAL"),
        ("EDGE_JOURNAL", "host=db.example password=secret", "INSECURE_DATABASE"),
    ],
)
def test_each_plaintext_beyond_this_machine_is_allowed_by_a_setting_of_its_own(
    variable: str, value: str, allowed_by: str, allowing: str
) -> None:
    prefix = variable.partition("_")[0]
    environ = {variable: value, f"{prefix}_{allowing}": "true"}
    if prefix == "EDGE":
        environ = {"EDGE_ID": "e1", "EDGE_CLOUD": "localhost"} | environ
    settings_class: type[EdgeSettings | CloudSettings] = EdgeSettings if prefix == "EDGE" else CloudSettings
    if allowing == allowed_by:
        load(settings_class, prefix, environ=environ)
        return
    with pytest.raises(ConfigurationError, match=f"{allowed_by.lower()} = true") as caught:
        load(settings_class, prefix, environ=environ)
    assert caught.value.code == "settings.plaintext_refused"
    assert "secret" not in str(caught.value)


def test_doors_and_databases_that_need_no_leave() -> None:
    cloud(CLOUD_JOURNAL="postgresql://me@db.example/b?sslmode=verify-full", CLOUD_HTTP_HOST="127.0.0.1")
    cloud(CLOUD_JOURNAL="postgresql://me@localhost/b")
    edge(EDGE_CLOUD="localhost", EDGE_JOURNAL="edge.db", EDGE_GRPC_HOST="::1")


def test_tls_files_come_together() -> None:
    with pytest.raises(ConfigurationError, match="tls_ca and tls_key not set") as caught:
        cloud(CLOUD_TLS_CERT="x")
    assert caught.value.code == "settings.conflict"


@pytest.mark.parametrize(
    "environ",
    [
        {"EDGE_EVENT_MAX_BYTES": "2MiB"},
        {"EDGE_BATCH_MAX_BYTES": "5MiB"},
        {"EDGE_HEARTBEAT_S": "31"},
        {"EDGE_BACKOFF_MIN_S": "31"},
        {"EDGE_ON_FULL": "drop_oldest"},
    ],
)
def test_settings_that_do_not_fit_together_are_refused(environ: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        edge(EDGE_INSECURE="1", **environ)
    assert caught.value.code == "settings.conflict"
    assert next(iter(environ)) in caught.value.message


def test_the_password_in_a_journal_url_is_not_described() -> None:
    loaded = load(CloudSettings, "CLOUD", environ={"CLOUD_JOURNAL": "postgresql://me:secret@localhost/b"})
    assert {line.key: line.value for line in describe(loaded)}["journal"] == "postgresql://me:***@localhost/b"


def test_every_setting_of_both_services_is_described_and_reads_back() -> None:
    settings: Loaded[EdgeSettings] | Loaded[CloudSettings]
    for settings in (
        load(EdgeSettings, "EDGE", environ={"EDGE_ID": "e", "EDGE_CLOUD": "localhost"}),
        load(CloudSettings, "CLOUD"),
    ):
        flags = [
            f"--{line.key.replace('_', '-')}={'' if line.value == '(none)' else line.value}"
            for line in describe(settings)
        ]
        prefix = "EDGE" if isinstance(settings.settings, EdgeSettings) else "CLOUD"
        assert load(type(settings.settings), prefix, flags).settings == settings.settings


@pytest.mark.parametrize("prefix", ["{edge}/", "{edge_id/", "edge_id}/", "{{edge_id}}/", "{}/"])
def test_a_mistyped_placeholder_is_refused(prefix: str) -> None:
    with pytest.raises(ConfigurationError, match="it is the only placeholder"):
        edge(EDGE_ENTITY_PREFIX=prefix, EDGE_INSECURE="true")


def test_streams_may_be_opened_to_readers() -> None:
    assert cloud(CLOUD_STREAMS="orders=O+P readers=g*,news=N").readers() == {"orders": "g*"}
    assert cloud(CLOUD_STREAMS="* readers=*").readers() == {"*": "*"}
    for wrong in ("orders=O reader=*", "orders=O readers=", "*=O readers=*", "* readers=*,orders=O"):
        with pytest.raises(ConfigurationError) as refused:
            cloud(CLOUD_STREAMS=wrong)
        assert refused.value.code == "settings.conflict"


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("EDGE_ID", "e1 ", "without the blank ' ' at its beginning or end"),
        ("EDGE_ID", "\ufeffe1", "without a byte order mark"),
        ("EDGE_JOURNAL", "edge.db\r", r"without the blank '\\r'"),
        ("EDGE_TLS_CA", " ca.pem", "without the blank"),
        ("EDGE_CLOUD", "cloud.example:7443\n", r"without the blank '\\n'"),
        ("EDGE_ENTITY_PREFIX", "{edge_id}/\t", r"without the blank '\\t'"),
        ("EDGE_LOG_LEVEL", "debug ", "without the blank"),
    ],
)
def test_blanks_that_would_become_part_of_a_value_are_refused(key: str, value: str, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        edge(**{key: value})


def test_blanks_that_mean_nothing_are_taken() -> None:
    settings = edge(EDGE_HTTP_PORT=" 80 ", EDGE_INSECURE="true ", EDGE_HEARTBEAT_S="3s ", EDGE_PLAIN_TYPES="A , B ")
    assert (settings.http_port, settings.insecure, settings.heartbeat_s) == (80, True, 3.0)
    assert settings.plain_types == ("A", "B")


def test_a_byte_order_mark_of_a_file_is_taken(tmp_path: Path) -> None:
    file = tmp_path / "edge.toml"
    file.write_text('id = "e1"\ncloud = "localhost"\n', encoding="utf-8-sig")
    assert load(EdgeSettings, "EDGE", file=file).settings.id == "e1"
    secret = tmp_path / "journal"
    secret.write_text("postgresql://localhost/edge\n", encoding="utf-8-sig")
    assert str(edge(EDGE_JOURNAL_FILE=str(secret), EDGE_INSECURE="true").journal) == "postgresql://localhost/edge"


def test_how_a_peers_id_is_read_is_one_rule_of_both_services() -> None:
    environ = {"CLOUD_TLS_IDENTITIES": "spiffe://fleet/edge/{id},{id}.edges.example", "CLOUD_TLS_MANY_IDS": "true"}
    for name in ("ca", "cert", "key"):
        environ[f"CLOUD_TLS_{name.upper()}"] = f"{name}.pem"
    settings = load(CloudSettings, "CLOUD", (), environ, None).settings
    rule = IdentityRule(("spiffe://fleet/edge/{id}", "{id}.edges.example"), one_id=False)
    assert settings.identity_rule == rule
    files = tls_files(settings)
    assert files is not None
    assert files.identity == rule
    plain = load(EdgeSettings, "EDGE", (), {"EDGE_ID": "e", "EDGE_CLOUD": "127.0.0.1:1"}, None).settings
    assert plain.identity_rule == IdentityRule()


def test_a_pattern_without_a_place_for_the_id_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"tls_identities: 'spiffe://fleet/edge/' must have \{id\} in it"):
        load(CloudSettings, "CLOUD", (), {"CLOUD_TLS_IDENTITIES": "spiffe://fleet/edge/"}, None)
