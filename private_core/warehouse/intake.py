"""Takes what the rooms of the private core tell out of the outbox: rows land and leave the outbox in one transaction.

One intake works at a time, by an advisory lock, so that the rows of one key land in the order of `seq`, which is the
order of commits. An event that cannot be read stops the intake, loudly, until a build comes that can: nothing is lost.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from google.protobuf.message import DecodeError
from isthmus.orders.v1 import events_pb2 as orders
from isthmus.orders.v1 import orders_pb2
from isthmus.payments.v1 import events_pb2 as payments
from isthmus.payments.v1 import payments_pb2
from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mesh.contract import Contract
from mesh.database.engine import transact
from mesh.errors import Internal
from private_core.storage.expiry import Expiry
from private_core.times import to_datetime
from security.audit.removal import Remover

INTERVAL_S: Final = 0.5
BATCH: Final = 500
_BATCHES_MAX: Final = 100
# Any number will do, as long as all intakes of one database agree on it.
_ADVISORY_LOCK: Final = 4_717_318_402

_LOCK: Final = text("SELECT pg_try_advisory_xact_lock(:lock)")
_TAKE: Final = text(
    """
    DELETE FROM outbox.event WHERE seq = ANY(ARRAY(
        SELECT seq FROM outbox.event WHERE topic = ANY(:topics) ORDER BY seq LIMIT :limit
    )) RETURNING seq, topic, payload
    """
)


def _upsert(table: str, key: str, *columns: str) -> TextClause:
    values = ", ".join(f":{name}" for name in (key, *columns))
    changes = ", ".join(f"{name} = excluded.{name}" for name in columns)
    return text(
        f"INSERT INTO warehouse.{table} ({key}, {', '.join(columns)}) VALUES ({values})"  # noqa: S608
        f" ON CONFLICT ({key}) DO UPDATE SET {changes}, landed_time = clock_timestamp()"
    )


_PURCHASE: Final = _upsert(
    "purchase",
    "order_id",
    *("member_id", "state", "total_minor", "currency", "click_id", "source_time", "placed_time"),
)
_PAYMENT: Final = _upsert(
    "payment",
    "payment_id",
    *("order_id", "state", "currency", "authorized_minor", "captured_minor", "refunded_minor", "source_time"),
)


def _purchase(payload: bytes) -> dict[str, Any]:
    event = orders.OrderChanged.FromString(payload)
    return {
        "order_id": event.order_id,
        "member_id": event.member_id,
        "state": orders_pb2.OrderState.Name(event.state).removeprefix("ORDER_STATE_").lower(),
        "total_minor": event.total.minor,
        "currency": event.total.currency,
        "click_id": event.click_id or None,
        "source_time": to_datetime(event.source_time_us),
        "placed_time": to_datetime(event.placed_time_us),
    }


def _payment(payload: bytes) -> dict[str, Any]:
    event = payments.PaymentChanged.FromString(payload).payment
    return {
        "payment_id": event.payment_id,
        "order_id": event.order_id,
        "state": payments_pb2.PaymentState.Name(event.state).removeprefix("PAYMENT_STATE_").lower(),
        "currency": event.authorized.currency,
        "authorized_minor": event.authorized.minor,
        "captured_minor": event.captured.minor,
        "refunded_minor": event.refunded.minor,
        "source_time": to_datetime(event.source_time_us),
    }


# By the event: its table, and the table's key.
TABLES: Final[Mapping[str, tuple[str, str]]] = {
    orders.OrderChanged.DESCRIPTOR.full_name: ("warehouse.purchase", "order_id"),
    payments.PaymentChanged.DESCRIPTOR.full_name: ("warehouse.payment", "payment_id"),
}
_LANDED_AS: Final[Mapping[str, tuple[TextClause, Callable[[bytes], dict[str, Any]]]]] = {
    orders.OrderChanged.DESCRIPTOR.full_name: (_PURCHASE, _purchase),
    payments.PaymentChanged.DESCRIPTOR.full_name: (_PAYMENT, _payment),
}


def expiries(engine: AsyncEngine, contract: Contract, remover: Remover) -> list[Expiry]:
    """What lets the rows of each event go when they have said nothing new for as long as the contract keeps it."""
    return [
        Expiry(engine, remover, *TABLES[event.message], "landed_time", event.retention_days)
        for event in contract.events.values()
        if not event.crosses
    ]


class Intake:
    """Harmless in several replicas at once."""

    def __init__(self, engine: AsyncEngine, contract: Contract) -> None:
        """Raises KeyError for an event that stays within and lands nowhere."""
        self._engine = engine
        self._within = {
            event.topic: _LANDED_AS[event.message] for event in contract.events.values() if not event.crosses
        }

    async def round(self) -> int:
        """Land what is there; how many events. Raises MeshError."""
        landed = 0
        for _ in range(_BATCHES_MAX):
            took = await transact(self._engine, self._batch)
            landed += took
            if took < BATCH:
                break
        return landed

    async def _batch(self, tx: AsyncConnection) -> int:
        if not (await tx.execute(_LOCK, {"lock": _ADVISORY_LOCK})).scalar_one():
            return 0
        taken = await tx.execute(_TAKE, {"topics": list(self._within), "limit": BATCH})
        rows = sorted(taken.all(), key=lambda row: int(row.seq))
        for row in rows:
            statement, read = self._within[row.topic]
            try:
                values = read(bytes(row.payload))
            except (DecodeError, ValueError) as error:
                raise Internal("EVENT_UNREADABLE", f"event {row.seq} of {row.topic} cannot be read") from error
            await tx.execute(statement, values)
        return len(rows)
