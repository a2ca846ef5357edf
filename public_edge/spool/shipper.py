"""Ships the spool to Kafka, in order, for as long as it takes.

The spool owns retry: librdkafka's time-outs are switched off, and where it gives a record back all the same (a fatal
error, a purge), the producer is made anew and everything behind the watermark is sent again. The warehouse drops what
comes twice by its event id.
"""

import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from mesh.logs import logger
from public_edge.kafka import SILENT, KafkaAccess
from public_edge.spool.event import Event, Kind, unpack
from public_edge.spool.reader import SpoolReader
from public_edge.spool.record import Record
from public_edge.spool.spool import Spool
from public_edge.spool.tracker import Tracker

INFLIGHT_MAX = 50_000
IDLE_S = 0.2
ACKNOWLEDGED_S = 0.05
CHECKPOINT_EVERY_S = 1.0
BACKOFF_S_MAX = 5.0
# Kafka acknowledges before its disk has the record. The spool, which is on the disk, lets go of an event only when the
# broker has surely flushed it (deploy.local: within 0.5 s); what a power cut takes from Kafka is then sent again.
FLUSHED_S = 2.0
_FLUSH_STEP_S = 0.1
RENEW_S = 10.0
# Nothing makes these records fit: they are set aside in the log and counted, or they would hold up all others.
_HOPELESS = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError._VALUE_SERIALIZATION, KafkaError.INVALID_RECORD})


@dataclass(slots=True)
class ShipperCounters:
    shipped: int = 0
    # Times that the producer was made anew after an error.
    restarts: int = 0
    # Records that Kafka will never take, or that are no events.
    hopeless: int = 0


class Shipper:
    """A thread between the spool and Kafka."""

    def __init__(self, spool: Spool, access: KafkaAccess, topics: Mapping[Kind, str], node: str) -> None:
        self.counters = ShipperCounters()
        self._spool = spool
        self._access = access
        self._topics = {kind: (topic, kind.message.encode()) for kind, topic in topics.items()}
        self._node = node.encode()
        self._reader = SpoolReader(spool)
        self._tracker = Tracker()
        self._stopping = threading.Event()
        self._renew = threading.Event()
        self._failure: KafkaError | None = None
        # When Kafka had acknowledged up to which sequence, oldest first; at most one entry a step.
        self._acknowledged: deque[tuple[float, int]] = deque()
        self._checkpoint_at = time.monotonic()
        self._drain_until = 0.0
        self._log = logger("shipper")
        self._thread = threading.Thread(target=self._run, name="shipper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def renew(self) -> None:
        """Take the rotated certificate: what is under way may finish, then the producer is made anew."""
        self._drain_until = time.monotonic() + RENEW_S
        self._renew.set()
        self._spool.arrived.set()

    def stop(self, grace_s: float) -> None:
        """Ship what is left as far as `grace_s` allows; the rest waits in the spool for the next start."""
        self._drain_until = time.monotonic() + grace_s
        self._stopping.set()
        self._spool.arrived.set()
        self._thread.join(grace_s + 1.0)

    def _run(self) -> None:
        backoff_s = 0.1
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                self._ship_until_renewed()
            except KafkaException as error:
                self._interrupted(error.args[0])
            except Exception:
                self._log.exception("shipping failed")
                self.counters.restarts += 1
            else:
                continue
            backoff_s = 0.1 if time.monotonic() - began > BACKOFF_S_MAX else min(backoff_s * 2, BACKOFF_S_MAX)
            self._stopping.wait(backoff_s)
        self._reader.close()

    def _interrupted(self, error: KafkaError) -> None:
        self.counters.restarts += 1
        self._log.warning("shipping interrupted", why=error.name(), behind=self._spool.backlog_events)

    def _ship_until_renewed(self) -> None:
        self._renew.clear()
        self._failure = None
        self._tracker.clear()
        self._reader.rewind()
        producer = Producer(
            self._access.options()
            | {
                "enable.idempotence": True,
                "acks": "all",
                "compression.type": "lz4",
                "linger.ms": 5,
                "message.timeout.ms": 0,
                "queue.buffering.max.messages": INFLIGHT_MAX,
                "queue.buffering.max.kbytes": 65536,
                "socket.timeout.ms": 10_000,
            },
            logger=SILENT,
        )
        try:
            self._ship(producer)
        finally:
            producer.purge()
            producer.flush(1.0)

    def _ship(self, producer: Producer) -> None:
        while True:
            if self._failure is not None:
                raise KafkaException(self._failure)
            ending = self._ending()
            self._spool.arrived.clear()
            records = self._reader.read() if not self._renew.is_set() else []
            for record in records:
                self._send(producer, record)
            producer.poll(0)
            self._advance()
            if records:
                continue
            if ending and (not self._tracker or time.monotonic() >= self._drain_until):
                return
            if self._tracker:
                # Returns with the next acknowledgement. What arrives meanwhile goes in one batch.
                producer.poll(ACKNOWLEDGED_S)
                self._advance()
            elif not ending:
                self._spool.arrived.wait(IDLE_S)

    def _ending(self) -> bool:
        return self._stopping.is_set() or self._renew.is_set()

    def _send(self, producer: Producer, record: Record) -> None:
        self._tracker.sent(record.sequence)
        try:
            event = unpack(record.payload)
            topic, message = self._topics[Kind(event.kind)]
        except (ValueError, KeyError):
            self._set_aside(record.sequence, "not an event")
            return
        headers = self._headers(event, message)
        key, on_delivery = event.event_id.hex(), partial(self._delivered, record.sequence)
        while self._failure is None and not (self._ending() and time.monotonic() >= self._drain_until):
            try:
                producer.produce(topic, event.body, key, headers=headers, on_delivery=on_delivery)
                return
            except BufferError:
                # The queue is full: Kafka is slow or away. Acknowledgements make room.
                producer.poll(0.1)
                self._advance()

    def _headers(self, event: Event, message: bytes) -> list[tuple[str, str | bytes | None]]:
        headers: list[tuple[str, str | bytes | None]] = [
            ("event-id", event.event_id.hex().encode()),
            ("kind", message),
            ("origin", b"public"),
            ("node", self._node),
        ]
        if event.traceparent:
            headers.append(("traceparent", event.traceparent))
        return headers

    def _delivered(self, sequence: int, error: KafkaError | None, message: Message) -> None:
        if error is None:
            self.counters.shipped += 1
            self._tracker.acknowledged(sequence)
        elif error.code() in _HOPELESS:
            self._set_aside(sequence, error.name())
        else:
            self._failure = self._failure or error

    def _set_aside(self, sequence: int, why: str) -> None:
        self.counters.hopeless += 1
        self._log.error("event set aside", sequence=sequence, why=why)
        self._tracker.acknowledged(sequence)

    def _advance(self) -> None:
        now = time.monotonic()
        reached = self._tracker.contiguous()
        if reached is not None:
            if self._acknowledged and now - self._acknowledged[-1][0] < _FLUSH_STEP_S:
                begun, _ = self._acknowledged.pop()
                self._acknowledged.append((begun, reached))
            else:
                self._acknowledged.append((now, reached))
        while self._acknowledged and now - self._acknowledged[0][0] >= FLUSHED_S + _FLUSH_STEP_S:
            self._spool.acknowledge(self._acknowledged.popleft()[1])
        if now - self._checkpoint_at >= CHECKPOINT_EVERY_S:
            self._checkpoint_at = now
            self._spool.save_watermark()
