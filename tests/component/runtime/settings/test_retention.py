"""Each setting of retention comes to where it is obeyed, at both services."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

from cloud_service.retention import CloudRetentionSettings
from cloud_service.settings import CloudSettings
from common.runtime.app.application import NO_APPLICATION
from common.runtime.settings.loading import load
from edge_service.retention import EdgeRetentionSettings
from edge_service.settings import EdgeSettings

ENTITIES = replace(NO_APPLICATION, entities=cast(Any, {"Order": object()}))

EDGE = {
    "EDGE_ID": "e1",
    "EDGE_CLOUD": "localhost",
    "EDGE_RETENTION_INTERVAL_S": "11",
    "EDGE_KEEP_ACKED_S": "12",
    "EDGE_IDEMPOTENCY_KEEP_S": "13",
    "EDGE_PLAIN_TYPES": "Sensor,Door",
    "EDGE_SNAPSHOT_EVERY": "Cart=10",
}


def test_the_settings_of_an_edge() -> None:
    settings = load(EdgeSettings, "EDGE", environ={**EDGE, "EDGE_ON_FULL": "drop_oldest"}).settings
    assert EdgeRetentionSettings.of(settings, 14, ENTITIES) == EdgeRetentionSettings(
        interval_s=11,
        keep_acked_s=12,
        keep_keys_s=13,
        cap_bytes=14,
        plain_types=frozenset({"Sensor", "Door"}),
        covered_types=frozenset({"Order", "Cart"}),
    )


def test_an_edge_that_is_to_refuse_at_its_cap_drops_nothing() -> None:
    settings = load(EdgeSettings, "EDGE", environ={**EDGE, "EDGE_ON_FULL": "refuse"}).settings
    assert EdgeRetentionSettings.of(settings, 14, ENTITIES).plain_types == frozenset()


def test_the_settings_of_a_cloud() -> None:
    environ = {
        "CLOUD_INSECURE": "true",
        "CLOUD_RETENTION_INTERVAL_S": "11",
        "CLOUD_RETENTION_AGE_S": "12",
        "CLOUD_RETENTION_MAX_BYTES": "2MiB",
        "CLOUD_RETENTION_LEAST_AGE_S": "13",
        "CLOUD_IDEMPOTENCY_KEEP_S": "14",
        "CLOUD_LEASE_S": "15",
        "CLOUD_SNAPSHOT_EVERY": "Cart=10",
    }
    settings = load(CloudSettings, "CLOUD", environ=environ).settings
    assert CloudRetentionSettings.of(settings, ENTITIES) == CloudRetentionSettings(
        interval_s=11,
        age_s=12,
        max_bytes=2 * 1024 * 1024,
        least_age_s=13,
        keep_keys_s=14,
        covered_types=frozenset({"Order", "Cart"}),
        lease_s=15,
    )
