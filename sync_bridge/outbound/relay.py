"""Sends the outbox to Kafka, in its order, and removes a row only when Kafka has it.

One relay is active, the holder of an advisory lock. Its connection may die without it noticing, so Kafka is asked too:
all relays share one transactional id, and whoever takes it over fences the one before. A record is sent at least once;
after a crash the rows that were sent and not removed are sent again, all of them and in their order, so the last record
of each key is always the newest.
"""

import hashlib
import threading
from collections.abc import Sequence
from typing import Final

import grpc
from confluent_kafka import KafkaException, Producer

from mesh.clock import Clock
from mesh.logs import logger
from mesh.telemetry import HEADER
from security.audit.record import AuditRecord, Decision, clean, new_record_id
from sync_bridge.kafka import SILENT, client_settings, libpq_url
from sync_bridge.ledger.dead_letters import DeadLetter
from sync_bridge.outbound.gate import Gate, Leak
from sync_bridge.outbound.meters import Meters
from sync_bridge.outbound.settings import OutboundSettings
from sync_bridge.outbound.store import Row, Store

TRANSACTIONAL_ID: Final = "isthmus.outbound"
ORIGIN: Final = "private"
# No call is behind it: the way outward, named as a method would be.
AUDITED_AS: Final = "/isthmus.bridge.v1.Outbound/Send"
_COUNT_EVERY_S: Final = 1.0


class Relay:
    """One producer and one database connection; made, run once, and closed."""

    def __init__(self, settings: OutboundSettings, gate: Gate, meters: Meters, clock: Clock) -> None:
        """Raises psycopg.OperationalError while PostgreSQL is away."""
        self._settings = settings
        self._gate = gate
        self._meters = meters
        self._clock = clock
        self._log = logger("bridge-outbound")
        self._counted_at = 0.0
        self._store = Store(
            libpq_url(settings.database_url), settings.node, settings.outbound_statement_s_max, gate.within
        )

    def run(self, stop: threading.Event) -> None:
        """Stand by until the lock is free, then send until `stop`. Raises what ended it otherwise."""
        while not self._store.try_lock():
            if stop.wait(self._settings.outbound_standby_s):
                return
        producer = self._new_producer()
        self._meters.active(True)
        self._log.info("relay_active")
        while not stop.is_set():
            rows = self._store.read(self._settings.outbound_batch_records_max)
            if rows:
                self._pass_on(producer, rows)
            self._count()
            if len(rows) < self._settings.outbound_batch_records_max:
                stop.wait(self._settings.outbound_poll_s)

    def close(self) -> None:
        """Ends the connection, and with it the lock."""
        self._meters.active(False)
        self._store.close()

    def _new_producer(self) -> Producer:
        settings = self._settings
        limit_ms = int(settings.outbound_send_s_max * 1000)
        producer = Producer(
            client_settings(settings.identity_dir, settings.kafka_bootstrap, settings.node)
            | {
                "transactional.id": TRANSACTIONAL_ID,
                "transaction.timeout.ms": 2 * limit_ms,
                "enable.idempotence": True,
                "acks": "all",
                "delivery.timeout.ms": limit_ms,
                "linger.ms": 0,
                "compression.type": "zstd",
                "message.max.bytes": 1 << 20,
            },
            logger=SILENT,
        )
        producer.init_transactions(settings.outbound_send_s_max)
        return producer

    def _pass_on(self, producer: Producer, rows: Sequence[Row]) -> None:
        letters: list[DeadLetter] = []
        records: list[AuditRecord] = []
        sent: list[Row] = []
        producer.begin_transaction()
        try:
            for row in rows:
                try:
                    payload = self._gate.admit(row.topic, row.key, row.payload)
                except Leak as leak:
                    letters.append(self._stopped(row, leak))
                    records.append(self._record(row, leak))
                    continue
                producer.produce(row.topic, payload, row.key, headers=self._headers(row))
                sent.append(row)
            producer.commit_transaction(self._settings.outbound_send_s_max)
        except KafkaException as error:
            if error.args[0].txn_requires_abort():
                producer.abort_transaction(self._settings.outbound_send_s_max)
            raise
        newest = [row for row in sent if self._gate.compacted(row.topic)]
        self._store.remove([row.seq for row in rows], letters, records, newest)
        now_ms = self._clock.now_us() / 1000
        for row in sent:
            self._meters.sent(row.topic, (now_ms - row.created_ms) / 1000)

    def _stopped(self, row: Row, leak: Leak) -> DeadLetter:
        self._log.error("leak_stopped", topic=row.topic, seq=row.seq, cause=leak.cause, detail=leak.detail)
        self._meters.stopped(row.topic if row.topic in self._gate.topics else "undeclared", leak.cause)
        return DeadLetter(
            direction="outward",
            topic=row.topic,
            partition=None,
            position=row.seq,
            kind=self._gate.kind(row.topic) if row.topic in self._gate.topics else None,
            cause=leak.cause,
            detail=leak.detail,
            key=row.key.encode(),
            payload=row.payload,
            time_ms=row.created_ms,
        )

    def _record(self, row: Row, leak: Leak) -> AuditRecord:
        """For the audit log: whose record it was is not said, for the key may be what may not leave."""
        return AuditRecord(
            record_id=new_record_id(),
            time_us=self._clock.now_us(),
            peer=str(self._settings.spiffe_id),
            token_subject="",
            token_client="",
            method=AUDITED_AS,
            data_subject="",
            decision=Decision.DENIED,
            result=grpc.StatusCode.PERMISSION_DENIED.name,
            reason=clean(f"LEAK_STOPPED {leak.cause} {row.topic} {row.seq}"),
            trace_id=row.traceparent[3:35],
            workload=self._settings.workload,
            node=self._settings.node,
        )

    def _headers(self, row: Row) -> list[tuple[str, str | bytes | None]]:
        headers: list[tuple[str, str | bytes | None]] = [
            ("kind", self._gate.kind(row.topic)),
            ("origin", ORIGIN),
            ("event-id", event_id(row)),
            ("node", self._settings.node),
        ]
        return [*headers, (HEADER, row.traceparent)] if row.traceparent else headers

    def _count(self) -> None:
        now = self._clock.monotonic()
        if now - self._counted_at >= _COUNT_EVERY_S:
            self._counted_at = now
            self._meters.waiting(*self._store.waiting())


def event_id(row: Row) -> str:
    """32 hexadecimal digits that are the same when the row is sent again."""
    return hashlib.sha256(f"outbox|{row.seq}|{row.created_ms}".encode()).hexdigest()[:32]
