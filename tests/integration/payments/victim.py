"""Payments rooms that kill themselves, each at its own step of a payment: python -m ...victim URL FOLDER STEPS.

An order of counted goods is placed, then another one is placed and cancelled. The first is paid: a hold, a capture in
part, a refund of it in part, a release of the rest. Steps are counted over the statements of it all and the provider's
operations; each counts twice, before and after. There is a process for each step up to STEPS, forked from one that has
loaded the code and nothing else. Prints how each ended: -9 by SIGKILL, or 0 when there is no such step.
"""

import asyncio
import hashlib
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from mesh.environment import GRPC

os.environ.update(GRPC)

from mesh.database.connections import Connections
from mesh.database.engine import async_engine
from private_core.money import Money
from private_core.orders.domain import Line, State
from private_core.orders.domain import Order as PlacedOrder
from private_core.orders.store import OrderStore
from private_core.payments.domain import Order, ProviderAnswer
from private_core.payments.store import PaymentStore
from private_core.storage.idempotency import Answer, Intent
from security.audit import attached
from security.audit.record import AuditRecord, Decision
from tests.integration.payments.conftest import FakeOrders, Room

AMOUNT = 2933
TAKEN = 2000
GIVEN_BACK = 933
PIECES = 2
SKU = "cd-1"
CANCELLED = "-not-paid"


class Steps:
    def __init__(self, fatal: int) -> None:
        self._left = fatal

    def step(self) -> None:
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self._left -= 1


class FolderProvider:
    """Remembers in files what it did, as another company would."""

    def __init__(self, folder: Path, step: Callable[[], None] = lambda: None) -> None:
        self._folder = folder
        self._step = step

    async def hold(self, key: str, reference: str, amount: Money) -> ProviderAnswer:
        return self._do(key, "hold", reference, amount)

    async def take(self, key: str, reference: str, amount: Money) -> ProviderAnswer:
        return self._do(key, "take", reference, amount)

    async def release(self, key: str, reference: str, amount: Money) -> ProviderAnswer:
        return self._do(key, "release", reference, amount)

    async def give_back(self, key: str, reference: str, amount: Money) -> ProviderAnswer:
        return self._do(key, "give_back", reference, amount)

    def _do(self, key: str, kind: str, reference: str, amount: Money) -> ProviderAnswer:
        self._step()
        path = self._folder / hashlib.sha256(key.encode()).hexdigest()
        said = json.dumps([kind, reference, amount.minor])
        if path.exists():
            assert path.read_text() == said
        else:
            path.write_text(said)
        self._step()
        return ProviderAnswer(True, f"p-{key}")

    def did(self, reference: str) -> list[str]:
        """What was done under this reference, each as often as it was done."""
        return sorted(kind for kind, about, _ in map(_read, self._folder.iterdir()) if about == reference)


def _read(path: Path) -> Any:
    return json.loads(path.read_text())


def orders_of(*order_ids: str) -> FakeOrders:
    orders = FakeOrders()
    for order_id in order_ids:
        orders.orders[order_id] = Order(order_id, "member-1", Money(AMOUNT, "USD"), placed=True)
    return orders


def record_of(method: str, order_id: str) -> Callable[[Any, str], AuditRecord]:
    """What the recorder would make of the call."""

    def make(code: Any, reason: str) -> AuditRecord:
        about = {"method": method, "data_subject": order_id, "result": code.name, "reason": reason}
        blank = dict.fromkeys(("peer", "token_subject", "token_client", "trace_id", "workload", "node"), "")
        return AuditRecord(record_id=os.urandom(16).hex(), time_us=1, decision=Decision.ALLOWED, **about, **blank)

    return make


async def main(url: str, folder: Path, order_id: str, fatal: int) -> None:
    steps = Steps(fatal)
    run: Callable[[Connections, str, Mapping[str, Any] | None], Awaitable[Any]] = Connections.execute

    async def execute(self: Connections, sql: str, parameters: Mapping[str, Any] | None) -> Any:
        steps.step()
        rows = await run(self, sql, parameters)
        steps.step()
        return rows

    Connections.execute = execute  # type: ignore[method-assign]
    engine = async_engine(url)
    orders = OrderStore(engine)
    for placed in (order_id, order_id + CANCELLED):
        attached.begin(record_of("Place", placed))
        await orders.place(intent(placed), order_of(placed), Answer(answer=b"placed"))
    version = await orders.begin_cancel(order_id + CANCELLED)
    assert version is not None
    cancelled = replace(order_of(order_id + CANCELLED), state=State.CANCELLED)
    assert await orders.end_cancel(cancelled, version)
    room = Room(engine, PaymentStore(engine), orders_of(order_id), cast(Any, FolderProvider(folder, steps.step)))
    attached.begin(record_of("Authorize", order_id))
    held = await room.authorize(order_id, f"{order_id}-hold", AMOUNT)
    attached.begin(record_of("Capture", order_id))
    await room.capture(held.payment_id, f"{order_id}-take", minor=TAKEN)
    attached.begin(record_of("Refund", order_id))
    await room.refund(held.payment_id, f"{order_id}-back", GIVEN_BACK)
    attached.begin(record_of("Void", order_id))
    await room.void(held.payment_id, f"{order_id}-void")
    await engine.dispose()


def intent(name: str) -> Intent:
    return Intent(hashlib.sha256(name.encode()).digest(), b"body")


def order_of(order_id: str) -> PlacedOrder:
    amount = Money(AMOUNT, "USD")
    return PlacedOrder(order_id, "member-1", State.PLACED, (Line(SKU, PIECES, amount),), amount, 1, 1)


def ended(url: str, folder: Path, fatal: int) -> int:
    """Fork a process that dies at this step, and wait for its end."""
    child = os.fork()
    if child == 0:
        try:
            asyncio.run(main(url, folder, f"order-{fatal}", fatal))
        finally:
            os._exit(1 if sys.exc_info()[0] else 0)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    print(json.dumps([ended(sys.argv[1], Path(sys.argv[2]), step) for step in range(int(sys.argv[3]) + 1)]))
