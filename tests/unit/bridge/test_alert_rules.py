"""Every alert rule stands on metrics that processes export, and names a runbook that exists."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import REGISTRY, generate_latest

from deploy.local.settings import REPOSITORY
from mesh.clock import SystemClock
from public_edge.node import meters as edge
from public_edge.spool.event import Kind
from sync_bridge.inbound.domain import Tally
from sync_bridge.inbound.meters import Lag
from sync_bridge.inbound.meters import Meters as Inbound
from sync_bridge.outbound.meters import Meters as Outbound

RULES = REPOSITORY / "deploy" / "alerts" / "bridge.yaml"
NAME = re.compile(r"\b(?:bridge|edge|identity)_[a-z_]+")


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


@pytest.fixture(scope="module")
def exported() -> str:
    """What the bridge's and a node's metrics endpoints would show."""
    reader = PrometheusMetricReader()
    provider = MeterProvider(metric_readers=[reader])
    meter = provider.get_meter("test")
    inbound, outbound = Inbound(meter, SystemClock()), Outbound(meter)
    inbound.count({("clicks", 0): Tally(1, 1, 1)})
    inbound.freshness([1])
    inbound.lag({("clicks", 0): Lag(1, 1)})
    outbound.active(True)
    outbound.stopped("clicks", "LEAK")
    meter.create_counter("bridge.sessions_failed", unit="1").add(1)
    numbers = SimpleNamespace(
        **dict.fromkeys(("shed", "refused", "syncs", "quarantined", "shipped", "hopeless", "restarts"), 1),
        damaged=1,
    )
    spool = SimpleNamespace(counters=numbers, accepted=1, backlog_events=1, backlog_bytes=1)
    parts: dict[str, Any] = {
        "app": SimpleNamespace(answers={}),
        "bots": SimpleNamespace(seen={}),
        "recorder": SimpleNamespace(recorded=[0] * (max(Kind) + 1), alone=[0] * (max(Kind) + 1)),
        "follower": SimpleNamespace(replayed=0),
        "spool": spool,
        "shipper": spool,
        "consumer": SimpleNamespace(staleness_s=lambda: 1.0),
        "publisher": SimpleNamespace(campaigns=1, content_items=1, unusable=0),
    }
    edge.observe(meter, **cast(Any, parts))
    shown = generate_latest(REGISTRY).decode()
    provider.shutdown()
    return shown


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_a_rule_stands_on_exported_metrics_and_names_its_runbook(rule: dict[str, Any], exported: str) -> None:
    names = NAME.findall(rule["expr"])
    assert names
    assert [name for name in names if not re.search(rf"^{name}[{{ ]", exported, re.MULTILINE)] == []
    assert (Path(REPOSITORY) / rule["annotations"]["runbook"]).is_file()
