"""How fast payments are captured, beside the same SQL bare, and on books that have grown."""

import contextlib
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Final

import psycopg
from isthmus.money.v1 import money_pb2
from isthmus.payments.v1 import payments_pb2 as pb

from chaos.bench.report import Result
from chaos.bench.rounds import AT_ONCE, ROUNDS, at_once, compared, grown, libpq, one_by_one, record
from mesh.call import Call, Claims, begin
from mesh.clock import SystemClock
from mesh.contract import load
from mesh.database.engine import Database, async_engine
from private_core.money import Money
from private_core.payments.domain import Order, ProviderAnswer
from private_core.payments.service import PaymentsService
from private_core.payments.store import PaymentStore
from security.audit import attached

PAYMENTS: Final = 150
POSTINGS: Final = (10_000, 100_000, 1_000_000)
_AMOUNT: Final = Money(2933, "USD")


class _Orders:
    async def read(self, order_id: str) -> Order:
        return Order(order_id, "member-1", _AMOUNT, placed=True)

    inspect = read


class _Provider:
    async def hold(self, key: str, reference: str, amount: Money) -> ProviderAnswer:
        return ProviderAnswer(True, key)

    take = release = give_back = hold


async def measure(few_url: str, many_url: str) -> list[Result]:
    few, many = _Books(few_url), _Books(many_url)
    # The first round of each warms caches, connections and their plans, and counts for nothing.
    await few.beside_bare()
    _vacuum(few_url)
    await few.beside_bare()
    rounds = [await few.beside_bare() for _ in range(ROUNDS)]
    results = [
        compared(
            "captured payments, all in their transactions", "payments/s", "the same SQL bare", PAYMENTS, rounds, 0.6
        )
    ]
    held = 0
    for postings in POSTINGS:
        _fill(many_url, held, postings)
        held = postings
        _vacuum(few_url, many_url)
        await many.take()
        await few.take()
        taken = [(await many.take(), await few.take()) for _ in range(ROUNDS)]
        name, counts = f"captured payments on {postings:,} postings", (PAYMENTS, PAYMENTS)
        results.append(grown(name, "payments/s", "on few, beside", counts, taken))
    await few.close()
    await many.close()
    return results


class _Books:
    """A payments room on a database of its own."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._engine = async_engine(url, "bench", pool_size=AT_ONCE)
        self._service = PaymentsService(PaymentStore(self._engine), _Orders(), _Provider(), SystemClock())
        self._plain: list[psycopg.AsyncConnection[Any]] = []

    async def close(self) -> None:
        for connection in self._plain:
            await connection.close()
        await self._engine.dispose()

    async def take(self) -> float:
        """Seconds for PAYMENTS, authorised and captured."""
        started = time.perf_counter()
        await at_once([lambda: _captured(self._service) for _ in range(PAYMENTS)])
        return time.perf_counter() - started

    async def beside_bare(self) -> tuple[float, float]:
        """Seconds for PAYMENTS, and for what they say to the database alone."""
        mine = await self.take()
        return mine, await self.bare()

    async def bare(self) -> float:
        """Seconds for the statements of PAYMENTS, on plain connections."""
        statements: list[tuple[str, Any]] = []
        # What the room says to the database is written down once, with the ids that a second time needs.
        with _written_down(self._engine, statements):
            await one_by_one([lambda: _captured(self._service) for _ in range(PAYMENTS)])
        _renamed(statements)
        # Kept from round to round, as the room keeps its own, with the plans that they have prepared.
        while len(self._plain) < AT_ONCE:
            url = libpq(self._url)
            self._plain.append(await psycopg.AsyncConnection.connect(url, autocommit=True, prepare_threshold=2))
        idle = list(self._plain)

        async def one(four: Sequence[tuple[str, Any]]) -> None:
            connection = idle.pop()
            for sql, parameters in four:
                await (await connection.execute(sql, parameters)).fetchall()
            idle.append(connection)

        fours = [statements[at : at + 4] for at in range(0, len(statements), 4)]
        started = time.perf_counter()
        await at_once([partial(one, four) for four in fours])
        return time.perf_counter() - started


async def _captured(service: PaymentsService) -> None:
    number = secrets.token_hex(8)
    amount = money_pb2.Money(minor=_AMOUNT.minor, currency=_AMOUNT.currency)
    _begin("AuthorizePayment")
    hold = pb.AuthorizePaymentRequest(idempotency_key=f"hold-{number}", order_id=f"order-{number}", amount=amount)
    payment = (await service.AuthorizePayment(hold, None)).payment
    _begin("CapturePayment")
    take = pb.CapturePaymentRequest(idempotency_key=f"take-{number}", payment_id=payment.payment_id)
    await service.CapturePayment(take, None)


def _begin(method: str) -> None:
    policy = load().methods[f"/isthmus.payments.v1.Payments/{method}"]
    begin(Call(policy, None, time.monotonic() + 10, claims=Claims("shop", "shop", policy.scopes, 0, "t")))
    attached.begin(lambda code, reason: record(policy.path, code.name))


@contextlib.contextmanager
def _written_down(engine: Database, statements: list[tuple[str, Any]]) -> Iterator[None]:
    run = engine.connections.execute

    async def execute(sql: str, parameters: Any) -> Any:
        statements.append((sql, dict(parameters)))
        return await run(sql, parameters)

    engine.connections.execute = execute  # type: ignore[method-assign]
    try:
        yield
    finally:
        engine.connections.execute = run  # type: ignore[method-assign]


def _renamed(statements: list[tuple[str, Any]]) -> None:
    """Other ids of the same length, so that the same statements can be run once more."""
    for at in range(0, len(statements), 4):
        four = [parameters for _, parameters in statements[at : at + 4]]
        payment = secrets.token_hex(16)
        for parameters in four:
            parameters["payment_id"] = payment
            if "order_id" in parameters:
                parameters["order_id"] = secrets.token_hex(8)
            if "audit" in parameters:
                was = parameters["audit"].split('"record_id":"')[1][:32]
                parameters["audit"] = parameters["audit"].replace(was, secrets.token_hex(16))
        for begins, ends in ((four[0], four[1]), (four[2], four[3])):
            begins["intent"] = ends["intent"] = os.urandom(32)
            begins["operation_id"] = ends["operation_id"] = secrets.token_hex(16)


def _fill(url: str, held: int, postings: int) -> None:
    """Add what is missing from `held` to `postings`."""
    with psycopg.connect(libpq(url)) as connection:
        connection.execute("SET session_replication_role = replica")
        for statement in (
            "INSERT INTO payments.payment"
            " (payment_id, order_id, state, currency, authorized, captured, source_time, expires_time)"
            " SELECT 'p' || n, 'o' || n, 'captured', 'USD', 1, 1, now(), now()"
            " FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS n",
            "INSERT INTO payments.operation (operation_id, payment_id, kind, progress, amount)"
            " SELECT 't' || n, 'p' || n, 'capture', 'done', 1"
            " FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS n",
            "INSERT INTO payments.transfer (transfer_id, kind, source_time)"
            " SELECT 't' || n, 'capture', now() FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS n",
            "INSERT INTO payments.posting (transfer_id, account, currency, amount)"
            " SELECT 't' || n, account, 'USD', sign FROM generate_series(%(first)s::bigint, %(last)s::bigint) AS n,"
            " (VALUES ('provider:receivable', 1), ('merchant:revenue', -1)) AS leg (account, sign)",
        ):
            connection.execute(statement, {"first": held // 2 + 1, "last": postings // 2})


def _vacuum(*urls: str) -> None:
    for url in urls:
        with psycopg.connect(libpq(url), autocommit=True) as connection:
            connection.execute("VACUUM ANALYZE")
