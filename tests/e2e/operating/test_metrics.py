"""The page of metrics, its catalogue, dashboards and alerts agree: names, types and labels, compared with real scrapes."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from examples.support.processes import ROOT
from tests.e2e.processes import Stage, open_stage

Family = tuple[str, frozenset[str]]
"""Type and labels."""

CONTRIB = ROOT / "contrib"
OF_PROMETHEUS = frozenset({"instance", "job", "le"})
CHECK_FAILED_WITHOUT_TOOL = 3


def catalogue() -> dict[str, Family]:
    """What docs/metrics.md says, by full name."""
    found: dict[str, Family] = {}
    for line in (ROOT / "docs" / "metrics.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if len(cells) == 5 and cells[0].startswith("`"):
            services = ("edge", "cloud") if cells[3] == "both" else (cells[3],)
            for service in services:
                labels = frozenset(re.findall(r"`(\w+)`", cells[2]))
                found[f"backhaul_{service}_{cells[0].strip('`')}"] = (cells[1], labels)
    return found


def scraped(page: str) -> dict[str, Family]:
    """What a page has, by full name; labels of families that have no series now are not seen."""
    found: dict[str, Family] = {}
    for family in text_string_to_metric_families(page):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = {label for sample in family.samples for label in sample.labels if label != "le"}
        found[name] = (family.type, frozenset(labels))
    return found


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Of an edge and a cloud, after events, parked ones, refusals, a cut link and a subscription."""
    with open_stage(tmp_path_factory.mktemp("metrics")) as stage:
        yield play(stage)


def play(stage: Stage) -> tuple[str, str]:
    cloud = stage.cloud(summary_interval_s=0.1).start()
    grpc_port = cloud.grpc_port
    edge = stage.edge(cloud=cloud, subscriptions="orders", summary_interval_s=0.1, entity_prefix="").start()
    edge.append(3, entity="e1/temp")
    edge.append(2, entity="e9/not-ours")
    edge.wait_for("push.parked")
    cloud.delivered(3)
    cloud.stop()
    edge.wait_for("link.unreachable")
    cloud.start(grpc_port=grpc_port)
    edge.append(1, entity="e9/again")
    cloud.wait_for("event.parked", process=cloud.process.pid)
    mark = edge.mark()
    edge.wait_for("link.connected", after=0, process=edge.process.pid)
    for service in (edge, cloud):
        service.ask("GET", "/v1/none")
    edge.wait_for("link.summary", after=mark)
    time.sleep(0.3)  # the summaries have read the projections' lags
    return edge.text("/metrics"), cloud.text("/metrics")


def test_the_catalogue_is_what_the_pages_have(pages: tuple[str, str]) -> None:
    known = catalogue()
    on_pages: dict[str, Family] = {}
    for page in pages:
        on_pages |= {name: family for name, family in scraped(page).items() if name.startswith("backhaul_")}
    unserved = re.compile(r"backhaul_(cloud_(subscription|inbox)|edge_(consumers|firehose))_")
    absent = {name for name in known if name not in on_pages}
    # The cloud here follows nothing and the edge serves nothing.
    assert [name for name in absent if not unserved.match(name)] == []
    assert set(on_pages) <= set(known), "add the row to docs/metrics.md"
    for name, (kind, labels) in on_pages.items():
        assert kind == known[name][0], name
        assert labels <= known[name][1], name
        if not name.startswith(("backhaul_edge_projection", "backhaul_cloud_edge_")):
            assert labels == known[name][1], name


def test_numbers_on_the_pages_are_true(pages: tuple[str, str]) -> None:
    edge, cloud = pages
    assert 'backhaul_cloud_projection_events_total{projection="tally"}' in cloud
    assert 'backhaul_edge_http_refusals_total{code="http.no_such_path"} 1.0' in edge
    assert "backhaul_edge_journal_appended_events_total 6.0" in edge
    assert "backhaul_edge_link_parked_events_total 3.0" in edge
    assert 'backhaul_cloud_parked_events_total{code="parked.not_allowed"} 1.0' in cloud
    assert 'backhaul_edge_link_ends_total{code="link.refused"}' in edge
    assert re.search(r"backhaul_edge_link_ack_seconds_count [1-9]", edge)
    assert re.search(r"backhaul_cloud_journal_commit_seconds_count [1-9]", cloud)
    assert re.search(r"backhaul_edge_volume_free_bytes [1-9]", edge)
    assert "process_resident_memory_bytes" in edge


def dashboards() -> dict[str, dict[str, Any]]:
    return {path.name: json.loads(path.read_text()) for path in (CONTRIB / "grafana").glob("*.json")}


def queries() -> Iterator[tuple[str, str]]:
    """Every query with where it stands."""
    for name, board in dashboards().items():
        for panel in board["panels"]:
            yield from ((f"{name}: {panel['title']}", target["expr"]) for target in panel["targets"])
        for variable in board["templating"]["list"]:
            if variable["type"] == "query":
                yield (
                    f"{name}: ${variable['name']}",
                    re.sub(r"label_values\((.*), (\w+)\)", r"\1{\2=~''}", variable["query"]),
                )
    for line in (CONTRIB / "prometheus" / "alerts.yaml").read_text().splitlines():
        if line.strip().startswith("expr: "):
            yield "alerts.yaml", line.strip().removeprefix("expr: ")


def problems(query: str, known: dict[str, Family]) -> list[str]:
    """Names and labels in a query that no page has."""
    found, labels = [], set(OF_PROMETHEUS)
    for name, matchers in re.findall(r"((?:backhaul|process)_\w+)(\{[^}]*\})?", query):
        base = name if name in known else re.sub(r"_(bucket|sum|count)$", "", name)
        if base not in known or (base != name and known[base][0] != "histogram"):
            found.append(f"no metric {name}")
            continue
        labels |= known[base][1]
        asked = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers))
        found += [f"{name} has no label {label}" for label in asked - known[base][1] - OF_PROMETHEUS]
    for grouped in re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", query):
        found += [f"no label {label}" for label in re.findall(r"\w+", grouped) if label not in labels]
    return found


def test_every_query_asks_for_what_is_there(pages: tuple[str, str]) -> None:
    known = catalogue()
    known |= {name: family for page in pages for name, family in scraped(page).items() if name.startswith("process_")}
    asked = list(queries())
    assert len(asked) > 40
    wrong = [f"{where}: {problem}" for where, query in asked for problem in problems(query, known)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "query",
    [
        "rate(backhaul_edge_link_lag_event[5m])",
        'backhaul_edge_link_state{status="connected"}',
        "sum by (node) (backhaul_cloud_edges_connected)",
        "backhaul_edge_link_lag_events_bucket",
    ],
)
def test_a_wrong_query_is_found(query: str) -> None:
    assert len(problems(query, catalogue())) == 1


def test_every_legend_names_a_label_of_its_query() -> None:
    for name, board in dashboards().items():
        for panel in board["panels"]:
            for target in panel["targets"]:
                kept = re.findall(r"\bby\s*\(([^)]*)\)", target["expr"])
                for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
                    assert not kept or any(label in one for one in kept), (name, panel["title"], label)


def test_every_alert_has_a_runbook_and_a_test() -> None:
    rules = (CONTRIB / "prometheus" / "alerts.yaml").read_text()
    tests = (CONTRIB / "prometheus" / "alerts_test.yaml").read_text()
    page = (ROOT / "docs" / "metrics.md").read_text()
    names = re.findall(r"alert: (\w+)", rules)
    assert re.findall(r"docs/metrics\.md#(\w+)", rules) == [name.lower() for name in names]
    assert [name for name in names if f"### {name}\n" not in page or f"alertname: {name}\n" not in tests] == []


def test_the_rules_pass_their_tests(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [CONTRIB / "prometheus" / "check.sh"], capture_output=True, text=True, timeout=120, check=False
    )
    if done.returncode == CHECK_FAILED_WITHOUT_TOOL:
        with capfd.disabled():
            print(f"\n{done.stdout.strip()}")
        return
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS" in done.stdout
