"""summary.json: the figures of a run and its verdict, for programs."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from chaos.checkers.expected import Month
from chaos.checkers.verdict import Check
from chaos.demo.replay import Replay, Verdict
from chaos.load import audience, storefront
from mesh.files import PUBLIC_MODE, write_file


@dataclass(frozen=True)
class Summary:
    """What was sent is what the files hold; what landed is what the mesh's own books say."""

    impressions_sent: int
    impressions_landed: int
    clicks_sent: int
    clicks_landed: int
    net_clicks_landed: int
    content_views_sent: int
    content_views_landed: int
    orders_sent: int
    orders_landed: int
    order_amount_minor: int
    captures_landed: int
    capture_amount_minor: int
    members: int
    events_lost: int
    events_duplicated: int
    # The same event twice on the way, dropped by the bridge.
    event_repeats_dropped: int
    dead_letters: int
    # All currencies; each is a check of its own.
    ledger_sum_minor: int
    public_requests: int
    public_failures: int
    public_latency_ms_p50: float
    public_latency_ms_p99: float
    sensitive_requests: int
    sensitive_failures: int
    edge_nodes: int
    edge_nodes_killed: int
    kafka_outage_seconds: float
    click_to_warehouse_ms_p50: float
    click_to_warehouse_ms_p99: float
    duration_seconds: float
    # The largest sample of all processes together.
    rss_mib: float
    checks: tuple[Check, ...]
    ok: bool

    def to_json(self) -> str:
        document = asdict(self)
        document["checks"] = [asdict(check) | {"ok": check.ok} for check in self.checks]
        return json.dumps(document, indent=1) + "\n"


def summarize(replay: Replay, verdict: Verdict, edge_nodes: int, duration_s: float, rss_mib: float) -> Summary:
    expected, books, evidence = replay.expected, verdict.books, verdict.evidence
    orders = sum(books.orders.values(), Month())
    captures = sum(books.captures.values(), Month())
    ads = replay.outcomes.tally("ad")
    return Summary(
        impressions_sent=sum(expected.impressions.values()),
        impressions_landed=sum(traffic.impressions for traffic in books.slots.values()),
        clicks_sent=sum(expected.clicks.values()),
        clicks_landed=sum(traffic.clicks for traffic in books.slots.values()),
        net_clicks_landed=sum(traffic.net for traffic in books.slots.values()),
        content_views_sent=expected.pages,
        content_views_landed=books.pages - evidence.pages_before,
        orders_sent=expected.orders.count,
        orders_landed=orders.count,
        order_amount_minor=orders.minor,
        captures_landed=captures.count,
        capture_amount_minor=captures.minor,
        members=books.members,
        events_lost=verdict.loss.lost,
        events_duplicated=verdict.loss.duplicated,
        event_repeats_dropped=books.repeats,
        dead_letters=books.dead_letters,
        ledger_sum_minor=sum(books.ledger_sums.values()),
        public_requests=replay.outcomes.total(*audience.KINDS),
        public_failures=evidence.public_failures,
        public_latency_ms_p50=round(ads.percentile_ms(0.5), 2),
        public_latency_ms_p99=round(ads.percentile_ms(0.99), 2),
        sensitive_requests=replay.outcomes.total(*storefront.KINDS),
        sensitive_failures=evidence.sensitive_failures,
        edge_nodes=edge_nodes,
        edge_nodes_killed=evidence.edge_nodes_killed,
        kafka_outage_seconds=evidence.kafka_outage_seconds,
        click_to_warehouse_ms_p50=round(verdict.freshness.p50_ms, 1),
        click_to_warehouse_ms_p99=round(verdict.freshness.p99_ms, 1),
        duration_seconds=round(duration_s, 1),
        rss_mib=round(rss_mib, 1),
        checks=verdict.checks,
        ok=verdict.ok,
    )


def write(file: Path, summary: Summary) -> None:
    """Replace the file in one step."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_file(file, summary.to_json().encode(), PUBLIC_MODE, durable=False)
