"""Ships the spool to Kafka, in order, for as long as it takes, and keeps the node's side of the ledger.

The spool owns retry: librdkafka's time-outs are switched off, and where it gives a record back all the same (a fatal
error, a purge), the producer is made anew and everything behind the watermark is sent again. The warehouse drops what
comes twice by its event id.
"""

import threading
import time
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from confluent_kafka import KafkaError, KafkaException, Message, Producer
from google.protobuf.message import DecodeError
from isthmus.events.v1 import events_pb2

from mesh.logs import logger
from public_edge.kafka import SILENT, KafkaAccess
from public_edge.spool.books import DAMAGED, MINUTE_US, SET_ASIDE, Books, Cell, Line
from public_edge.spool.event import Event, Kind, parse, unpack
from public_edge.spool.reader import SpoolReader
from public_edge.spool.record import Record
from public_edge.spool.spool import Spool
from public_edge.spool.tracker import Tracker

INFLIGHT_MAX = 50_000
BATCH_MAX = 10_000
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
_LEDGER = events_pb2.SpoolLedger.DESCRIPTOR.full_name
Headers = list[tuple[str, str | bytes | None]]


@dataclass(slots=True)
class ShipperCounters:
    shipped: int = 0
    # Times that the producer was made anew after an error.
    restarts: int = 0
    # Records that Kafka will never take, or that are no events.
    hopeless: int = 0
    # Events that the spool had accepted and could not read any more.
    damaged: int = 0


class Shipper:
    """A thread between the spool and Kafka."""

    def __init__(
        self, spool: Spool, access: KafkaAccess, topics: Mapping[Kind, str], ledger_topic: str, node: str
    ) -> None:
        self.counters = ShipperCounters()
        self._spool = spool
        self._access = access
        self._topics = {int(kind): (topic, kind.message.encode()) for kind, topic in topics.items()}
        self._ledger_topic = ledger_topic
        self._node = node
        self._reader = SpoolReader(spool)
        self._tracker = Tracker()
        self._books = Books(spool.note)
        # What is wrong with the sequence of the next record says how many before it are damaged; None: not known.
        self._expected: int | None = None
        self._tails: dict[tuple[bytes, int], Headers] = {}
        self._stopping = threading.Event()
        self._renew = threading.Event()
        self._failure: KafkaError | None = None
        # The broker refuses a batch and does not say for which of its records: those up to this one go one by one.
        self._alone_upto = 0
        self._one_by_one = False
        # When Kafka had acknowledged up to which sequence and what was counted, oldest first; at most one entry a step.
        self._acknowledged: deque[tuple[float, int, Counter[Cell]]] = deque()
        # Lines of the ledger that this producer has sent, and when Kafka had acknowledged which.
        self._telling: set[int] = set()
        self._told: deque[tuple[float, int]] = deque()
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

    def drain(self, limit_s: float) -> bool:
        """Wait until everything spooled is in Kafka and told to the ledger, for at most `limit_s`; whether it is."""
        deadline = time.monotonic() + limit_s
        while self._spool.backlog_events or self._books.busy:
            if time.monotonic() >= deadline or not self._thread.is_alive():
                return False
            self._stopping.wait(0.05)
        return True

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
        # What lies behind the watermark is read again, and counted then.
        self._acknowledged.clear()
        self._expected = self._spool.acknowledged + 1 if self._spool.watermark_known else None
        self._telling.clear()
        self._told.clear()
        self._one_by_one = self._alone_upto > self._spool.acknowledged
        producer = Producer(
            self._access.options()
            | {
                "enable.idempotence": True,
                "acks": "all",
                "compression.type": "lz4",
                "linger.ms": 5,
                "message.timeout.ms": 0,
                "batch.num.messages": 1 if self._one_by_one else BATCH_MAX,
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
            self._advance(producer)
            if records:
                continue
            if ending and (not self._tracker or time.monotonic() >= self._drain_until):
                return
            if self._tracker:
                # Returns with the next acknowledgement. What arrives meanwhile goes in one batch.
                producer.poll(ACKNOWLEDGED_S)
                self._advance(producer)
            elif not ending:
                self._spool.arrived.wait(IDLE_S)

    def _ending(self) -> bool:
        return self._stopping.is_set() or self._renew.is_set()

    def _send(self, producer: Producer, record: Record) -> None:
        sequence = record.sequence
        if self._expected is not None and sequence > self._expected:
            self._missing(sequence - self._expected, sequence - 1)
        self._expected = sequence + 1
        self._tracker.sent(sequence)
        try:
            event = unpack(record.payload)
            topic, message = self._topics[event.kind]
        except (ValueError, KeyError):
            self._set_aside(sequence, 0, _now_minute(), "not an event")
            return
        minute = _minute(event)
        headers = self._headers(event, message, minute)
        on_delivery = partial(self._delivered, sequence, event.kind, minute)
        key = event.event_id.hex()
        while self._failure is None and not (self._ending() and time.monotonic() >= self._drain_until):
            try:
                producer.produce(topic, event.body, key, headers=headers, on_delivery=on_delivery)
                return
            except BufferError:
                # The queue is full: Kafka is slow or away. Acknowledgements make room.
                producer.poll(0.1)
                self._advance(producer)
            except KafkaException as error:
                # Too large for the client already.
                if error.args[0].code() not in _HOPELESS:
                    raise
                self._set_aside(sequence, event.kind, minute, error.args[0].name())
                return

    def _headers(self, event: Event, message: bytes, minute: int) -> Headers:
        tail = self._tails.get((message, minute))
        if tail is None:
            # Of the last minutes only: events come nearly in the order of their times.
            if len(self._tails) > 16:
                self._tails.clear()
            tail = self._tails[message, minute] = [
                ("kind", message),
                ("origin", b"public"),
                ("node", self._node.encode()),
                ("minute", b"%d" % minute),
            ]
        headers: Headers = [("event-id", event.event_id.hex().encode()), *tail]
        if event.traceparent:
            headers.append(("traceparent", event.traceparent))
        return headers

    def _delivered(self, sequence: int, kind: int, minute: int, error: KafkaError | None, message: Message) -> None:
        if error is None:
            self.counters.shipped += 1
            self._tracker.acknowledged(sequence, (minute, kind, message.partition() or 0))
        elif error.code() in _HOPELESS and self._one_by_one:
            self._set_aside(sequence, kind, minute, error.name())
        elif error.code() in _HOPELESS:
            self._alone_upto = max(self._alone_upto, sequence)
            self._failure = self._failure or error
        else:
            self._failure = self._failure or error

    def _set_aside(self, sequence: int, kind: int, minute: int, why: str) -> None:
        self.counters.hopeless += 1
        self._log.error("event set aside", sequence=sequence, why=why)
        self._tracker.acknowledged(sequence, (minute, kind, SET_ASIDE))

    def _missing(self, events: int, last: int) -> None:
        """The spool numbers its events without gaps: these were accepted and cannot be read any more."""
        self.counters.damaged += events
        self._log.error("events damaged", events=events, last=last)
        self._tracker.sent(last)
        self._tracker.acknowledged(last, (_now_minute(), 0, DAMAGED), events)

    def _advance(self, producer: Producer) -> None:
        now = time.monotonic()
        reached = self._tracker.contiguous()
        if reached is not None:
            sequence, counts = reached
            self._spool.quorum.reached(sequence)
            if self._acknowledged and now - self._acknowledged[-1][0] < _FLUSH_STEP_S:
                begun, _, before = self._acknowledged.pop()
                before.update(counts)
                self._acknowledged.append((begun, sequence, before))
            else:
                self._acknowledged.append((now, sequence, counts))
        while self._acknowledged and now - self._acknowledged[0][0] >= FLUSHED_S + _FLUSH_STEP_S:
            _, sequence, counts = self._acknowledged.popleft()
            self._books.count(counts)
            self._spool.acknowledge(sequence, self._books.note())
        if self._one_by_one and self._spool.acknowledged >= self._alone_upto and not self._renew.is_set():
            self.renew()
        if now - self._checkpoint_at >= CHECKPOINT_EVERY_S:
            self._checkpoint_at = now
            self._keep_books(producer, now)

    def _keep_books(self, producer: Producer, now: float) -> None:
        """Close the minutes of which nothing is left to come; save; then tell Kafka what is saved."""
        minute = _now_minute()
        while self._told and now - self._told[0][0] >= FLUSHED_S:
            self._books.told(self._told.popleft()[1])
        # Events are spooled in the order of their times, so what waits is not older than what was counted last.
        if self._spool.acknowledged >= self._spool.written:
            self._books.close(minute, self._spool.declined.counts(), minute)
        else:
            self._books.close(min(minute, self._books.newest_minute), self._spool.declined.counts(), minute)
        self._spool.note = self._books.note()
        self._spool.save_watermark()
        for number, line in self._books.lines.items():
            if number not in self._telling:
                self._tell(producer, line)

    def _tell(self, producer: Producer, line: Line) -> None:
        topic = self._topics[line.kind][0] if line.kind in self._topics else ""
        event_id = line.event_id(self._books.spool)
        now_us = time.time_ns() // 1000
        message = events_pb2.SpoolLedger(
            event_id=event_id,
            accepted_time_us=now_us,
            node=self._node,
            spool=self._books.spool,
            minute_us=line.minute * MINUTE_US,
            topic=topic,
            partition=line.partition,
            sent=line.sent,
            shed=line.shed,
            refused=line.refused,
            set_aside=line.set_aside,
            damaged=line.damaged,
        )
        headers: Headers = [
            ("event-id", event_id),
            ("kind", _LEDGER),
            ("origin", "public"),
            ("node", self._node),
            ("minute", str(now_us // MINUTE_US)),
        ]
        try:
            producer.produce(
                self._ledger_topic,
                message.SerializeToString(),
                event_id,
                headers=headers,
                on_delivery=partial(self._line_delivered, line.number),
            )
        except BufferError:
            return  # At the next checkpoint there may be room.
        self._telling.add(line.number)

    def _line_delivered(self, number: int, error: KafkaError | None, message: Message) -> None:
        if error is None:
            self._told.append((time.monotonic(), number))
        else:
            self._failure = self._failure or error


def _minute(event: Event) -> int:
    """In which the event was accepted, by its own word; what cannot be read is for the bridge to refuse."""
    try:
        return int(parse(event.kind, event.body).accepted_time_us) // MINUTE_US
    except DecodeError:
        return _now_minute()


def _now_minute() -> int:
    return time.time_ns() // 60_000_000_000
