"""One consumer and one database connection, for as long as both are well.

Whatever goes wrong (a connection breaks, a commit's outcome is unknown, a claim is fenced, the leaf rotates) ends the
session, and the next one starts from the checkpoints. There is no other way of recovery, so there is one to test.
"""

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, cast

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient

from mesh.clock import Clock
from mesh.errors import DataLoss
from mesh.logs import logger
from sync_bridge.inbound.decoder import Decoder
from sync_bridge.inbound.domain import Claim, Fenced, Flow, GapError, Pace, Partition, Record, Tally, Watermarks
from sync_bridge.inbound.meters import Lag, Meters
from sync_bridge.inbound.settings import InboundSettings
from sync_bridge.inbound.store import Batch, Store
from sync_bridge.inbound.tables import Table
from sync_bridge.kafka import SILENT, client_settings, libpq_url
from sync_bridge.worker import Interrupted

_BROKER_DEADLINE_S: Final = 3.0
_FLOW_EVERY_S: Final = 1.0
_REMEDY: Final = (
    "find out what was lost; to go on without it, set next_offset and topic_id of the partition in bridge.checkpoint "
    "(see sync_bridge/inbound/README.md)"
)
# librdkafka goes on by itself after these.
_PASSING: Final = frozenset({KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT, KafkaError._RESOLVE})


@dataclass(frozen=True, slots=True)
class _Landing:
    """A batch on its way into the database."""

    batch: Batch
    tallies: "Future[dict[Partition, Tally]]"


class Session:
    """For one thread; made, run once, and closed.

    While the database takes one batch, in a thread of its own, the next one is fetched and decoded.
    """

    def __init__(
        self,
        settings: InboundSettings,
        tables: Mapping[str, Table],
        decoder: Decoder,
        meters: Meters,
        clock: Clock,
    ) -> None:
        """Raises psycopg.OperationalError while PostgreSQL is away: then Kafka is not even asked."""
        self._settings = settings
        self._topics = sorted(tables)
        self._decoder = decoder
        self._store = Store(
            libpq_url(settings.database_url), settings.node, settings.inbound_statement_s_max, tables.values()
        )
        self._meters = meters
        self._clock = clock
        self._log = logger("bridge-inbound")
        self._lander = ThreadPoolExecutor(1, "landing")
        self._landing: _Landing | None = None
        self._flow, self._flow_next, self._pace = Flow(), 0.0, Pace()
        self._claims: dict[Partition, Claim] = {}
        # Behind the last record that was decoded; the claims follow when it has landed.
        self._positions: dict[Partition, int] = {}
        self._lags: dict[Partition, Lag] = {}
        self._topic_ids: dict[str, str] = {}
        self._asked: dict[str, Future[Any]] = {}
        self._ask_next = clock.monotonic() + settings.inbound_topic_check_s
        client = client_settings(settings.identity_dir, settings.kafka_bootstrap, settings.node)
        self._admin = AdminClient(client, logger=SILENT)
        self._consumer = Consumer(client | _consumer_settings(settings) | {"error_cb": self._on_error}, logger=SILENT)

    def run(self, stop: threading.Event) -> None:
        """Land records until `stop`.

        Raises what ended it otherwise: DataLoss must not be tried again, for going on would skip records silently.
        """
        try:
            self._run(stop)
        except Fenced as fenced:
            raise Interrupted(str(fenced)) from fenced
        except GapError as gap:
            raise DataLoss("RECORDS_MISSING", str(gap), remedy=_REMEDY) from gap

    def _run(self, stop: threading.Event) -> None:
        self._topic_ids = self._read_topic_ids()
        self._consumer.subscribe(self._topics, on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._revoked)
        while not stop.is_set():
            self._check_topics()
            if self._held_back(stop):
                continue
            if messages := self._fetch():
                self._decode(messages)
            else:
                self._finish()
                self._settle()
        self._finish()

    def close(self) -> None:
        """Leave without a trace at the broker: the membership is static, and no offset is committed there."""
        self._lander.shutdown(wait=True)
        # Whether it committed or not, the next session learns from the checkpoints.
        self._landing = None
        self._consumer.close()
        self._store.close()

    def _fetch(self) -> list[Record]:
        """What is there, at once; more is waited for only when there is something, and only for the linger."""
        messages = self._consumer.consume(1, self._settings.bridge_poll_s if self._landing is None else 0.001)
        most = min(self._settings.inbound_batch_records_max, self._flow.records_per_s_max or 50_000)
        if messages and most > 1:
            messages += self._consumer.consume(most - 1, self._settings.inbound_linger_s)
        for message in messages:
            if (error := message.error()) is not None:
                _raise(error)
        # What has no error has a topic, a partition and an offset.
        return cast("list[Record]", messages)

    def _decode(self, messages: Sequence[Record]) -> None:
        batch = self._decoder.batch(messages, self._positions)
        self._pace.took(len(messages), self._flow.records_per_s_max, self._clock.monotonic())
        if not batch.ends:
            return
        self._positions |= batch.ends
        self._finish()
        tallies = self._lander.submit(self._store.land, batch, dict(self._claims))
        self._landing = _Landing(batch, tallies)

    def _finish(self) -> None:
        """Wait for the batch that is landing, if there is one. Raises what kept it from landing."""
        landing, self._landing = self._landing, None
        if landing is None:
            return
        tallies = landing.tallies.result()
        for partition, end in landing.batch.ends.items():
            self._claims[partition] = Claim(self._claims[partition].epoch, end)
            self._lags[partition] = Lag(self._waiting(partition), landing.batch.written_us[partition])
        self._meters.count(tallies)
        self._meters.freshness(landing.batch.accepted_us)
        self._meters.lag(self._lags)
        for partition, tally in tallies.items():
            if tally.dead_letters:
                self._log.warning(
                    "records_buried", topic=partition[0], partition=partition[1], dead_letters=tally.dead_letters
                )

    def _held_back(self, stop: threading.Event) -> bool:
        """Follow what operators want; True when nothing may be fetched now. The membership is kept all the while."""
        now = self._clock.monotonic()
        if now >= self._flow_next:
            self._flow_next = now + _FLOW_EVERY_S
            self._finish()
            before, self._flow = self._flow, self._store.flow()
            if before.paused != self._flow.paused:
                self._hold(self._flow.paused)
            if self._flow.paused:
                self._look_ahead()
        if self._flow.paused:
            # Rebalances are answered; hardly a record comes, since every partition is paused.
            for message in self._consumer.consume(1, self._settings.bridge_poll_s):
                if (error := message.error()) is not None:
                    _raise(error)
                self._rewind(cast("Record", message))
        elif (pause_s := self._pace.wait_s(now)) > 0:
            stop.wait(min(pause_s, self._settings.bridge_poll_s))
        else:
            return False
        return True

    def _hold(self, paused: bool) -> None:
        partitions = [TopicPartition(*place) for place in self._claims]
        (self._consumer.pause if paused else self._consumer.resume)(partitions)
        self._log.info("flow_paused" if paused else "flow_resumed", partitions=len(partitions))

    def _look_ahead(self) -> None:
        """Without fetching, the client library does not hear how far the logs have grown."""
        now_us = self._clock.now_us()
        for place, claim in self._claims.items():
            high = self._watermarks(self._consumer, TopicPartition(*place)).high
            before = self._lags.get(place)
            self._lags[place] = Lag(max(0, high - claim.next_offset), before.landed_us if before else now_us)
        self._meters.lag(self._lags)

    def _rewind(self, record: Record) -> None:
        """A record that slipped through while its partition was being paused is fetched again later."""
        place = (record.topic(), record.partition())
        if place in self._positions:
            self._consumer.seek(TopicPartition(*place, self._positions[place]))

    def _settle(self) -> None:
        """Nothing came: what the log still holds beyond the checkpoint are markers and no records."""
        if any(lag.events for lag in self._lags.values()):
            self._lags = {partition: Lag(0, lag.landed_us) for partition, lag in self._lags.items()}
            self._meters.lag(self._lags)

    def _waiting(self, partition: Partition) -> int:
        marks = self._consumer.get_watermark_offsets(TopicPartition(*partition), cached=True)
        return max(0, marks[1] - self._claims[partition].next_offset) if marks else 0

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Runs inside consume(): claim in the database first, then read from where the claims say."""
        if not partitions:
            return
        logs = {(each.topic, each.partition): self._watermarks(consumer, each) for each in partitions}
        self._finish()
        claims = self._store.claim(logs, self._topic_ids)
        self._claims |= claims
        self._positions |= {place: claim.next_offset for place, claim in claims.items()}
        consumer.incremental_assign([TopicPartition(*place, claim.next_offset) for place, claim in claims.items()])
        waiting = sum(logs[place].high - claim.next_offset for place, claim in claims.items())
        self._log.info("partitions_claimed", partitions=len(claims), waiting=waiting)
        if self._flow.paused:
            self._hold(paused=True)

    def _revoked(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._finish()
        for each in partitions:
            self._claims.pop((each.topic, each.partition), None)
            self._positions.pop((each.topic, each.partition), None)
            self._lags.pop((each.topic, each.partition), None)
        consumer.incremental_unassign(partitions)
        self._meters.lag(self._lags)

    def _watermarks(self, consumer: Consumer, partition: TopicPartition) -> Watermarks:
        marks = consumer.get_watermark_offsets(partition, _BROKER_DEADLINE_S)
        if marks is None:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"no watermarks of {partition.topic}"))
        return Watermarks(*marks)

    def _read_topic_ids(self) -> dict[str, str]:
        return {name: _topic_id(future) for name, future in self._describe().items()}

    def _describe(self) -> dict[str, Future[Any]]:
        names = TopicCollection(self._topics)
        return self._admin.describe_topics(names, request_timeout=_BROKER_DEADLINE_S)

    def _check_topics(self) -> None:
        """Now and then, without waiting: a topic made anew under a running consumer may have the offsets it wants."""
        if self._asked and all(future.done() for future in self._asked.values()):
            answers, self._asked = self._asked, {}
            for name, future in answers.items():
                if future.exception() is None and _topic_id(future) != self._topic_ids[name]:
                    raise GapError(f"{name} was removed and made anew: its id was {self._topic_ids[name]}")
        elif not self._asked and self._clock.monotonic() >= self._ask_next:
            self._ask_next = self._clock.monotonic() + self._settings.inbound_topic_check_s
            self._asked = self._describe()

    def _on_error(self, error: KafkaError) -> None:
        if error.code() not in _PASSING:
            self._log.warning("kafka_error", code=error.name(), detail=error.str())


def _consumer_settings(settings: InboundSettings) -> dict[str, Any]:
    return {
        "group.id": settings.inbound_group,
        # A worker that comes back within the session keeps its partitions: no rebalance for a restart.
        "group.instance.id": settings.node,
        "partition.assignment.strategy": "cooperative-sticky",
        "session.timeout.ms": int(settings.inbound_session_s * 1000),
        "heartbeat.interval.ms": int(settings.inbound_session_s * 1000 / 5),
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        # Never jump: an offset that the log does not have means loss, and is for people to decide.
        "auto.offset.reset": "error",
        "fetch.wait.max.ms": 500,
        "fetch.queue.backoff.ms": 5,
        # Of each partition, so that a whole batch is there when the one before is on its way; the bytes are the bound.
        "queued.min.messages": max(10 * settings.inbound_batch_records_max, 1000),
        "queued.max.messages.kbytes": settings.inbound_queue_kib_max,
    }


def _topic_id(future: "Future[Any]") -> str:
    identity = future.result(timeout=_BROKER_DEADLINE_S).topic_id
    most, least = (
        part & 0xFFFFFFFFFFFFFFFF
        for part in (identity.get_most_significant_bits(), identity.get_least_significant_bits())
    )
    return f"{most:016x}{least:016x}"


def _raise(error: KafkaError) -> None:
    if error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
        raise GapError(f"records that were not landed are no longer in the log: {error.str()}")
    raise KafkaException(error)
