"""What operators do with the bridge, over gRPC. Rare calls: each opens a connection of its own, in a thread."""

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final, TypeVar

import grpc
import psycopg
from confluent_kafka import Consumer, KafkaException
from isthmus.bridge.v1 import bridge_pb2 as pb
from isthmus.bridge.v1 import bridge_pb2_grpc

from mesh.errors import FailedPrecondition, InvalidArgument, NotFound, Unavailable
from sync_bridge.inbound import backfill
from sync_bridge.inbound.decoder import Decoder
from sync_bridge.inbound.domain import NotDrained
from sync_bridge.inbound.meters import Meters
from sync_bridge.inbound.replay import replay
from sync_bridge.inbound.settings import InboundSettings
from sync_bridge.inbound.store import Store
from sync_bridge.inbound.tables import SPOOL_LEDGER, Table
from sync_bridge.kafka import libpq_url
from sync_bridge.ledger import conservation, settlement
from sync_bridge.ledger.dead_letters import headers_json
from sync_bridge.ledger.settlement import Letter, Selection

T = TypeVar("T")
_STATEMENT_S_MAX: Final = 15.0
_LOOK: Final = "see `isthmus status`"
# The end of the year 9998: what Python's and the database's times both hold.
_TIME_US_MAX: Final = 253_370_764_800_000_000
_STATES: Final = {
    "open": pb.DEAD_LETTER_STATE_OPEN,
    "replayed": pb.DEAD_LETTER_STATE_REPLAYED,
    "dropped": pb.DEAD_LETTER_STATE_DROPPED,
}
_NAMES: Final = {number: name for name, number in _STATES.items()}


class BridgeService(bridge_pb2_grpc.BridgeServicer):
    def __init__(self, settings: InboundSettings, tables: dict[str, Table], decoder: Decoder, meters: Meters) -> None:
        self._settings = settings
        self._url = libpq_url(settings.database_url)
        self._name = f"{settings.node}-operate"
        self._decoder = decoder
        self._meters = meters
        self._by_topic = tables
        self._own_topic = next(topic for topic, table in tables.items() if table is SPOOL_LEDGER)
        self._counted = {topic: table.name for topic, table in tables.items() if table is not SPOOL_LEDGER}

    async def ListDeadLetters(
        self,
        request: pb.ListDeadLettersRequest,
        context: grpc.aio.ServicerContext[pb.ListDeadLettersRequest, pb.ListDeadLettersResponse],
    ) -> pb.ListDeadLettersResponse:
        state = _NAMES.get(request.state, "")
        letters = await self._with(
            lambda store: _reading(
                store, settlement.list_letters, request.after_id, request.limit, request.topic, request.cause, state
            )
        )
        return pb.ListDeadLettersResponse(dead_letters=map(_letter, letters))

    async def GetDeadLetter(
        self,
        request: pb.GetDeadLetterRequest,
        context: grpc.aio.ServicerContext[pb.GetDeadLetterRequest, pb.GetDeadLetterResponse],
    ) -> pb.GetDeadLetterResponse:
        found = await self._with(lambda store: _reading(store, settlement.get, request.dead_letter_id))
        if found is None:
            raise NotFound("NO_SUCH_DEAD_LETTER", "there is no dead letter with this id", remedy="list them first")
        letter, content = found
        return pb.GetDeadLetterResponse(
            dead_letter=_letter(letter),
            key=content.key or b"",
            payload=content.payload,
            headers_json=headers_json(content.headers),
        )

    async def ReplayDeadLetters(
        self,
        request: pb.ReplayDeadLettersRequest,
        context: grpc.aio.ServicerContext[pb.ReplayDeadLettersRequest, pb.ReplayDeadLettersResponse],
    ) -> pb.ReplayDeadLettersResponse:
        selection = _selection(request.selection)
        done = await self._with(lambda store: replay(store, self._decoder, selection, request.after_id))
        return pb.ReplayDeadLettersResponse(
            landed=done.landed,
            duplicates=done.duplicates,
            failed=map(_letter, done.failed),
            next_after_id=done.next_after_id,
            sent_again=done.sent_again,
            superseded=done.superseded,
        )

    async def DropDeadLetters(
        self,
        request: pb.DropDeadLettersRequest,
        context: grpc.aio.ServicerContext[pb.DropDeadLettersRequest, pb.DropDeadLettersResponse],
    ) -> pb.DropDeadLettersResponse:
        selection = _selection(request.selection)

        def drop(store: Store) -> int:
            with store.transaction() as connection:
                return settlement.drop(connection, selection, request.reason)

        return pb.DropDeadLettersResponse(dropped=await self._with(drop))

    async def ReadLedger(
        self,
        request: pb.ReadLedgerRequest,
        context: grpc.aio.ServicerContext[pb.ReadLedgerRequest, pb.ReadLedgerResponse],
    ) -> pb.ReadLedgerResponse:
        if max(request.from_us, request.to_us) > _TIME_US_MAX:
            raise InvalidArgument("WINDOW_INVALID", "the window's bounds are microseconds since 1970, to the year 9998")
        lines = await self._with(
            lambda store: _reading(
                store, conservation.read, self._counted, self._own_topic, request.from_us, request.to_us
            )
        )
        shown = lines[: conservation.LINES_MAX]
        return pb.ReadLedgerResponse(lines=map(_line, shown), truncated=len(lines) > len(shown))

    async def GetFlow(
        self, request: pb.GetFlowRequest, context: grpc.aio.ServicerContext[pb.GetFlowRequest, pb.GetFlowResponse]
    ) -> pb.GetFlowResponse:
        flow = await self._with(Store.flow)
        return pb.GetFlowResponse(
            flow=pb.Flow(paused=flow.paused, records_per_s_max=flow.records_per_s_max), waiting=self._meters.waiting
        )

    async def SetFlow(
        self, request: pb.SetFlowRequest, context: grpc.aio.ServicerContext[pb.SetFlowRequest, pb.SetFlowResponse]
    ) -> pb.SetFlowResponse:
        flow = request.flow

        def change(store: Store) -> None:
            with store.transaction() as connection:
                connection.execute(
                    "UPDATE bridge.flow SET paused = %s, records_per_s_max = %s", (flow.paused, flow.records_per_s_max)
                )

        await self._with(change)
        return pb.SetFlowResponse(flow=flow)

    async def FindRecords(
        self,
        request: pb.FindRecordsRequest,
        context: grpc.aio.ServicerContext[pb.FindRecordsRequest, pb.FindRecordsResponse],
    ) -> pb.FindRecordsResponse:
        self._table(request.topic)
        spans = await self._reading_log(
            lambda consumer: backfill.find(consumer, request.topic, request.from_us, request.to_us)
        )
        return pb.FindRecordsResponse(
            spans=[pb.RecordSpan(partition=each.partition, begin=each.begin, end=each.end) for each in spans]
        )

    async def LandAgain(
        self,
        request: pb.LandAgainRequest,
        context: grpc.aio.ServicerContext[pb.LandAgainRequest, pb.LandAgainResponse],
    ) -> pb.LandAgainResponse:
        self._table(request.topic)
        span = backfill.Span(request.span.partition, request.span.begin, request.span.end)

        def land(store: Store, consumer: Consumer) -> backfill.Landed:
            return backfill.land_again(consumer, store, self._decoder, request.topic, span, shadow=request.shadow)

        done = await self._reading_log(lambda consumer: self._with_store(lambda store: land(store, consumer)))
        return pb.LandAgainResponse(
            read=done.read,
            landed=done.landed,
            duplicates=done.duplicates,
            refused=done.refused,
            next_offset=done.next_offset,
        )

    async def MoveLog(
        self,
        request: pb.MoveLogRequest,
        context: grpc.aio.ServicerContext[pb.MoveLogRequest, pb.MoveLogResponse],
    ) -> pb.MoveLogResponse:
        ends = {(each.topic, each.partition): each.end for each in request.ends}
        named = {topic for topic, _ in ends}
        if named != self._by_topic.keys() or named - request.topic_ids.keys():
            known = ", ".join(sorted(self._by_topic))
            raise InvalidArgument("TOPICS_DIFFER", "every inward topic moves, or none", remedy=f"name {known}")

        def move(store: Store) -> None:
            with store.transaction():
                store.move_log(ends, dict(request.topic_ids))

        try:
            await self._with(move)
        except NotDrained as left:
            raise FailedPrecondition("NOT_DRAINED", str(left), remedy="drain first: `isthmus bridge drain`") from left
        return pb.MoveLogResponse(partitions=len(ends))

    async def CompareShadow(
        self,
        request: pb.CompareShadowRequest,
        context: grpc.aio.ServicerContext[pb.CompareShadowRequest, pb.CompareShadowResponse],
    ) -> pb.CompareShadowResponse:
        table = self._table(request.topic)
        found = await self._with(lambda store: backfill.compare(store, table, drop=request.drop))
        return pb.CompareShadowResponse(rows=found.rows, missing=found.missing, different=found.different)

    def _table(self, topic: str) -> Table:
        if topic not in self._by_topic:
            known = ", ".join(sorted(self._by_topic))
            raise NotFound("NO_SUCH_TOPIC", f"no event comes inward by {topic}", remedy=f"one of {known}")
        return self._by_topic[topic]

    async def _reading_log(self, work: Callable[[Consumer], T]) -> T:
        """`work` with a consumer of its own, in a thread. Raises Unavailable without Kafka or the database."""

        def run() -> T:
            consumer = backfill.open_consumer(self._settings)
            try:
                return work(consumer)
            finally:
                consumer.close()

        try:
            return await asyncio.to_thread(run)
        except KafkaException as error:
            raise Unavailable("KAFKA_AWAY", "the bridge's Kafka does not answer", remedy=_LOOK) from error
        except psycopg.OperationalError as error:
            raise _database_away() from error

    async def _with(self, work: Callable[[Store], T]) -> T:
        """`work` with a store of its own, in a thread. Raises Unavailable without the database."""

        try:
            return await asyncio.to_thread(self._with_store, work)
        except psycopg.OperationalError as error:
            raise _database_away() from error

    def _with_store(self, work: Callable[[Store], T]) -> T:
        store = Store(self._url, self._name, _STATEMENT_S_MAX, self._by_topic.values())
        try:
            return work(store)
        finally:
            store.close()


def _database_away() -> Unavailable:
    return Unavailable("DATABASE_AWAY", "the bridge's database does not answer", remedy=_LOOK)


def _reading(store: Store, read: Callable[..., T], *arguments: Any) -> T:
    with store.transaction() as connection:
        return read(connection, *arguments)


def _selection(request: pb.Selection) -> Selection:
    selection = Selection(tuple(request.dead_letter_ids), request.topic, request.cause, request.all)
    if selection.empty:
        raise InvalidArgument(
            "NOTHING_SELECTED", "no dead letter is selected", remedy="name ids, a topic, a cause, or all"
        )
    return selection


def _us(time: datetime | None) -> int:
    return int(time.timestamp() * 1_000_000) if time else 0


def _letter(letter: Letter) -> pb.DeadLetter:
    return pb.DeadLetter(
        dead_letter_id=letter.dead_letter_id,
        direction=letter.direction,
        topic=letter.topic,
        partition=letter.partition,
        position=letter.position,
        kind=letter.kind,
        origin=letter.origin,
        event_id=letter.event_id,
        cause=letter.cause,
        detail=letter.detail,
        attempts=letter.attempts,
        state=_STATES[letter.state],
        record_time_us=_us(letter.record_time),
        buried_time_us=_us(letter.buried_time),
        settled_time_us=_us(letter.settled_time),
        reason=letter.reason,
    )


def _line(line: conservation.Line) -> pb.LedgerLine:
    return pb.LedgerLine(
        minute_us=line.minute_us,
        node=line.node,
        topic=line.topic,
        partition=line.partition,
        sent=line.sent,
        shed=line.shed,
        refused=line.refused,
        set_aside=line.set_aside,
        damaged=line.damaged,
        landed=line.landed,
        duplicates=line.duplicates,
        dead_letters=line.dead_letters,
        rows=line.rows,
        closed=line.closed,
    )
