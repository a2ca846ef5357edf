"""The sandbox provider over the wire: its answers, silences, notifications and statements against the books."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from isthmus.payments.v1 import (
    notifications_pb2,
    notifications_pb2_grpc,
    payments_pb2_grpc,
    provider_pb2,
    sandbox_pb2_grpc,
)
from isthmus.payments.v1 import payments_pb2 as pb

from mesh.clock import SystemClock
from mesh.errors import FailedPrecondition, InvalidArgument, MeshError, Unavailable
from private_core.payments.clients import SandboxClient
from private_core.payments.domain import Operation, Progress, ProviderAnswer
from private_core.payments.reconciliation import DAYS_BACK
from private_core.payments.sandbox.domain import Memory
from private_core.payments.sandbox.journal import Journal
from private_core.payments.sandbox.notifier import Notifier
from private_core.payments.sandbox.service import SandboxService
from private_core.payments.settlement import Settlement
from private_core.payments.statement import Act, Line
from security.audit.record import AuditRecord
from tests.integration.payments.conftest import Room
from tests.integration.room import PrivateRoom

TODAY = datetime.now(UTC).date()


class Unkept:
    """An audit sink for calls whose records nobody looks at here."""

    def require_open(self) -> None: ...
    async def append(self, record: AuditRecord) -> None: ...
    def enqueue(self, record: AuditRecord) -> None: ...


class Sandbox:
    """The room, paying at a sandbox provider of its own that is really asked."""

    def __init__(self, room: Room, client: SandboxClient, notifier: Notifier) -> None:
        self.notifier = notifier
        room.provider = cast(Any, client)
        room.__post_init__()
        self.room = room

    async def hold(self, number: int, minor: int, currency: str = "XTS") -> pb.Payment:
        self.room.order(f"order-{number}", minor, currency=currency)
        return await self.room.authorize(f"order-{number}", f"key-hold-{number}", minor, currency)

    async def told(self) -> None:
        """Everything that the provider has to tell was told."""
        assert await self.notifier.round()

    async def differences(self) -> list[tuple[str, str, str]]:
        answer = await self.room.ledger.Reconcile(pb.ReconcileRequest(day=TODAY.isoformat()), None)
        return [(one.name, one.here, one.there) for one in answer.differences]


@asynccontextmanager
async def serving(home: Path, room: Room) -> AsyncIterator[Sandbox]:
    there, here = PrivateRoom(home, "sandbox-provider"), PrivateRoom(home, "payments")
    journal = Journal(home / "journal")
    async with there.caller("payments") as to_provider, here.caller("sandbox-provider") as to_merchant:
        client = SandboxClient(to_provider, 0.5)
        sandbox = Sandbox(room, client, Notifier(to_merchant))
        memory = Memory(1000, journal, SystemClock().now_us)
        service = SandboxService(memory, journal, sandbox.notifier, slow_s=0.05, silent_s=5.0)
        payments = (payments_pb2_grpc.add_PaymentsServicer_to_server, room.service)
        ledger = (payments_pb2_grpc.add_LedgerServicer_to_server, room.ledger)
        notify = notifications_pb2_grpc.add_ProviderNotificationsServicer_to_server
        async with (
            there.serving(sandbox_pb2_grpc.add_SandboxProviderServicer_to_server, service, Unkept()),
            here.serving(notify, room.notifications, Unkept(), payments, ledger),
        ):
            yield sandbox


@pytest.fixture
async def sandbox(room: Room, tmp_path: Path) -> AsyncIterator[Sandbox]:
    async with serving(tmp_path, room) as sandbox:
        yield sandbox


async def test_what_the_provider_does_is_what_the_books_say(sandbox: Sandbox) -> None:
    room = sandbox.room
    held = await sandbox.hold(1, 2933, "USD")
    await room.capture(held.payment_id, "key-take-1", minor=2000)
    await room.refund(held.payment_id, "key-back-1", 500)
    await room.void(held.payment_id, "key-void-1")
    assert (await sandbox.hold(2, 1)).state == pb.PAYMENT_STATE_DECLINED
    assert (await sandbox.hold(3, 2)).state == pb.PAYMENT_STATE_AUTHORIZED
    await sandbox.told()
    assert await sandbox.differences() == []
    assert await room.sql("SELECT * FROM payments.difference") == []
    (done,) = await room.sql("SELECT * FROM payments.reconciliation")
    assert (done.provider, done.day, done.lines, done.differences) == ("sandbox", TODAY, 6, 0)


async def test_a_notification_ends_what_a_silent_provider_left_open(sandbox: Sandbox) -> None:
    with pytest.raises(Unavailable) as silent:
        await sandbox.hold(1, 3)
    assert silent.value.reason == "PROVIDER_SILENT"
    assert [name for name, *_ in await sandbox.differences()] == ["open-here"]
    await sandbox.told()
    held = await sandbox.hold(1, 3)
    assert held.state == pb.PAYMENT_STATE_AUTHORIZED
    with pytest.raises(Unavailable):
        await sandbox.room.capture(held.payment_id, "key-take-1", currency="XTS", minor=3)
    await asyncio.gather(*(sandbox.notifier.round() for _ in range(3)))
    assert (await sandbox.room.get(held.payment_id)).state == pb.PAYMENT_STATE_CAPTURED
    assert (await sandbox.room.balances())["merchant:revenue"] == -3
    assert await sandbox.differences() == []


async def test_a_notification_that_comes_while_its_operation_ends_is_heard_and_ends_nothing_twice(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = sandbox.room
    with pytest.raises(Unavailable):
        await sandbox.hold(1, 3)
    await sandbox.told()
    held = await sandbox.hold(1, 3)
    with pytest.raises(Unavailable):
        await room.capture(held.payment_id, "key-take-1", currency="XTS", minor=3)
    look = room.store.operation
    ended: list[str] = []

    async def ends_meanwhile(operation_id: str) -> Operation | None:
        found = await look(operation_id)
        assert found is not None
        if found.progress is Progress.OPEN:
            await Settlement(room.store, room.orders, room.provider).settle(found, ProviderAnswer(True, "p-1"))
            ended.append(operation_id)
        return await look(operation_id)

    monkeypatch.setattr(room.store, "operation", ends_meanwhile)
    await sandbox.told()
    assert len(ended) == 1
    assert (await room.get(held.payment_id)).state == pb.PAYMENT_STATE_CAPTURED
    assert (await room.balances())["merchant:revenue"] == -3
    assert await sandbox.differences() == []


async def test_misstated_unstated_and_unknown_operations_are_named_and_nothing_is_adjusted(sandbox: Sandbox) -> None:
    misstated, unstated = [await sandbox.hold(number, number) for number in (5, 6)]
    before = await sandbox.room.balances()
    # What was done a minute ago must be stated by now.
    await sandbox.room.sql("UPDATE payments.operation SET created_time = now() - interval '2 minutes'")
    found = await sandbox.differences()
    expected = [("amount-differs", "5", "6"), ("unknown-there", "hold 6 XTS", "")]
    same_day = (datetime.now(UTC) - timedelta(minutes=2)).date() == TODAY
    assert found == (expected if same_day else expected[:1])
    await sandbox.differences()
    rows = await sandbox.room.sql("SELECT name, day FROM payments.difference ORDER BY name")
    assert [(row.name, row.day) for row in rows] == [(name, TODAY) for name, *_ in found]
    assert await sandbox.room.balances() == before
    states = [(await sandbox.room.get(one.payment_id)).state for one in (misstated, unstated)]
    assert states == [pb.PAYMENT_STATE_AUTHORIZED] * 2


async def test_a_line_that_stands_twice_and_one_of_nobody_are_named(room: Room) -> None:
    room.order("order-1")
    await room.authorize("order-1", "key-hold-1")
    ((operation_id, payment_id),) = await room.sql("SELECT operation_id, payment_id FROM payments.operation")
    line = Line(operation_id, Act.HOLD, payment_id, 2933, "USD", True, "p-1")
    room.provider.stated[TODAY] = [line, line, replace(line, operation_id="op-x", minor=7)]
    report = await room.reconciliation.run(TODAY)
    assert [one.name.value for one in report.differences] == ["twice-there", "unknown-here"]


async def test_what_is_done_at_the_end_of_a_day_may_be_stated_on_the_next(room: Room) -> None:
    room.order("order-1")
    await room.authorize("order-1", "key-hold-1")
    yesterday = TODAY - timedelta(days=1)
    await room.sql("UPDATE payments.operation SET created_time = CAST(:day AS date) - interval '1 s'", day=TODAY)
    ((operation_id, payment_id),) = await room.sql("SELECT operation_id, payment_id FROM payments.operation")
    assert [one.name.value for one in (await room.reconciliation.run(yesterday)).differences] == ["unknown-there"]
    room.provider.stated[TODAY] = [Line(operation_id, Act.HOLD, payment_id, 2933, "USD", True, "p-1")]
    assert (await room.reconciliation.run(yesterday)).differences == ()


async def test_each_of_the_last_days_is_reconciled_once_without_being_asked(room: Room) -> None:
    assert await room.reconciliation.round() == DAYS_BACK
    assert await room.reconciliation.round() == 0


async def test_a_notification_that_contradicts_the_books_changes_nothing_and_stands_once(room: Room) -> None:
    room.order("order-1")
    await room.authorize("order-1", "key-hold-1")
    before = await room.balances()
    ((operation_id, payment_id),) = await room.sql("SELECT operation_id, payment_id FROM payments.operation")
    denied = provider_pb2.ProviderOperation(
        operation_id=operation_id, kind="hold", reference=payment_id, approved=False, provider_id="p-1"
    )
    denied.amount.minor, denied.amount.currency = 2933, "USD"
    unknown = provider_pb2.ProviderOperation(operation_id="op-x", kind="return", approved=True)
    for _ in range(2):
        await room.notifications.Notify(notifications_pb2.NotifyRequest(notifications=[denied, unknown]), None)
    rows = await room.sql("SELECT operation_id, name, day FROM payments.difference ORDER BY name")
    assert [tuple(row) for row in rows] == [(operation_id, "outcome-differs", None), ("op-x", "unknown-here", None)]
    assert await room.balances() == before
    with pytest.raises(InvalidArgument):
        await room.notifications.Notify(
            notifications_pb2.NotifyRequest(notifications=[provider_pb2.ProviderOperation(kind="steal")]), None
        )


async def test_days_that_are_none_are_refused(room: Room) -> None:
    refused: list[MeshError] = []
    for day in ("2026-02-30", (TODAY + timedelta(days=2)).isoformat()):
        with pytest.raises((InvalidArgument, FailedPrecondition)) as wrong:
            await room.ledger.Reconcile(pb.ReconcileRequest(day=day), None)
        refused.append(wrong.value)
    assert [one.reason for one in refused] == ["DAY_UNKNOWN", "DAY_NOT_BEGUN"]
