"""The node's own counters, read by the metrics endpoint when somebody looks."""

from collections.abc import Iterable

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from public_edge.clicks.following import Follower
from public_edge.http.app import EdgeApp
from public_edge.http.bots import BotRates
from public_edge.recorder import Recorder
from public_edge.snapshot.consumer import SnapshotConsumer
from public_edge.snapshot.publisher import Publisher
from public_edge.spool.event import Kind
from public_edge.spool.shipper import Shipper
from public_edge.spool.spool import Spool


def observe(
    meter: Meter,
    *,
    app: EdgeApp,
    bots: BotRates,
    recorder: Recorder,
    follower: Follower,
    spool: Spool,
    shipper: Shipper,
    consumer: SnapshotConsumer,
    publisher: Publisher,
) -> None:
    """Register every counter and gauge of the node."""

    def answers(_: CallbackOptions) -> Iterable[Observation]:
        for (route, status), count in list(app.answers.items()):
            yield Observation(count, {"route": route, "status": status})

    def asked_by_bots(_: CallbackOptions) -> Iterable[Observation]:
        for (bot, answered), count in list(bots.seen.items()):
            yield Observation(count, {"class": bot.name.lower(), "answered": answered})

    def events(_: CallbackOptions) -> Iterable[Observation]:
        for kind in Kind:
            yield Observation(recorder.recorded[kind], {"kind": kind.name.lower()})

    def alone(_: CallbackOptions) -> Iterable[Observation]:
        for kind in Kind:
            yield Observation(recorder.alone[kind], {"kind": kind.name.lower()})

    def spooled(_: CallbackOptions) -> Iterable[Observation]:
        counters = spool.counters
        yield Observation(spool.accepted, {"what": "accepted"})
        yield Observation(counters.shed, {"what": "shed"})
        yield Observation(counters.refused, {"what": "refused"})
        yield Observation(counters.syncs, {"what": "syncs"})
        yield Observation(counters.quarantined, {"what": "quarantined"})
        yield Observation(shipper.counters.shipped, {"what": "shipped"})
        yield Observation(shipper.counters.hopeless, {"what": "hopeless"})
        yield Observation(shipper.counters.restarts, {"what": "restarts"})
        yield Observation(shipper.counters.damaged, {"what": "damaged"})

    def backlog(_: CallbackOptions) -> Iterable[Observation]:
        yield Observation(spool.backlog_events, {"unit": "events"})
        yield Observation(spool.backlog_bytes, {"unit": "bytes"})

    def snapshot(_: CallbackOptions) -> Iterable[Observation]:
        yield Observation(publisher.campaigns, {"kind": "campaign"})
        yield Observation(publisher.content_items, {"kind": "content_item"})
        yield Observation(publisher.unusable, {"kind": "unusable"})

    meter.create_observable_counter("edge.http.answers", [answers])
    meter.create_observable_counter("edge.http.bots", [asked_by_bots])
    meter.create_observable_counter("edge.events.recorded", [events])
    meter.create_observable_counter("edge.events.without_quorum", [alone])
    meter.create_observable_counter("edge.clicks.replayed", [lambda _: [Observation(follower.replayed)]])
    meter.create_observable_counter("edge.spool.events", [spooled])
    meter.create_observable_gauge("edge.spool.backlog", [backlog])
    meter.create_observable_gauge("edge.snapshot.records", [snapshot])
    meter.create_observable_gauge(
        "edge.snapshot.staleness", [lambda _: [Observation(consumer.staleness_s())]], unit="s"
    )
