"""How fast the private core is, beside the bare primitives that it stands on, on the same database in the same run.

Rounds of both sides are interleaved and a ratio is the median of the rounds' ratios, so that a neighbour on the machine
disturbs both sides. No service and no wire are measured here: what a call adds to them is the same for every method.
"""

import asyncio
import contextlib
import os
import secrets
import shutil
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import psycopg
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from isthmus.money.v1 import money_pb2
from isthmus.payments.v1 import payments_pb2 as pb

from chaos.bench.report import Result
from chaos.bench.tools import free_ports
from deploy.local import migrate, postgres
from deploy.local.mesh import LocalMesh
from mesh.call import Call, Claims, begin
from mesh.clock import SystemClock
from mesh.contract import load
from mesh.database.engine import Database, async_engine
from mesh.database.migrate import migrate as upgrade
from private_core.members.store import MEMBER
from private_core.money import Money
from private_core.payments.domain import Order, ProviderAnswer
from private_core.payments.service import PaymentsService
from private_core.payments.store import PaymentStore
from private_core.storage.encrypted import RowCipher
from security.audit import attached
from security.audit.checkpoint import CheckpointFile
from security.audit.inspection import inspect
from security.audit.note import Signer
from security.audit.postgres import PostgresAuditSink
from security.audit.record import AuditRecord, Decision
from security.audit.sequencer import Sequencer
from security.audit.tree_store import TreeStore
from security.keys.envelope import DataKey, Envelope
from security.keys.port import KekRef

ROUNDS: Final = 7
SEALED: Final = 1_000
PAYMENTS: Final = 150
AT_ONCE: Final = 8
RECORDS: Final = 20_000
LEAVES: Final = (10_000, 100_000, 1_000_000)
POSTINGS: Final = 1_000_000
VERIFY_S: Final = 20.0
LEAVES_A_SECOND: Final = 20_000
_PARTICULARS: Final = {
    "phone": "+8613812340099",
    "name": "Marisol Vandenbroucke",
    "address": "7 Quillfeather Lane, Shenzhen",
}
_AMOUNT: Final = Money(2933, "USD")
_METHOD: Final = "/isthmus.payments.v1.Payments/CapturePayment"


def run(home: Path) -> list[Result]:
    """Measure under `home`/bench/core."""
    bench = home / "bench" / "core"
    shutil.rmtree(bench, ignore_errors=True)
    bench.mkdir(parents=True)
    try:
        return asyncio.run(_measure(bench))
    finally:
        shutil.rmtree(bench, ignore_errors=True)


async def _measure(bench: Path) -> list[Result]:
    results = [_sealing()]
    async with _database(bench) as url:
        results += await _payments(url)
        results += await _audit(url, bench)
    return results


@contextlib.asynccontextmanager
async def _database(bench: Path) -> AsyncIterator[str]:
    mesh = LocalMesh(bench / "home", free_ports(1)[0], only=("postgres",))
    await mesh.start()
    try:
        url = postgres.url(mesh.home, "bench")
        migrate.create_database(url)
        upgrade(url)
        yield url
    finally:
        await mesh.stop()


def _sealing() -> Result:
    """A member's record through every layer that stands between the service and SQL, against the cipher alone."""
    cipher, row, key = RowCipher(MEMBER, "isthmus"), secrets.token_hex(18), os.urandom(32)
    data_key, bare = DataKey(os.urandom(16), KekRef("local-5f0c1d2e", 1), key), AESGCM(key)
    associated = os.urandom(120)

    def ours() -> None:
        for _ in range(SEALED):
            stored = {name: each.to_bytes() for name, each in cipher.seal(data_key, row, _PARTICULARS).items()}
            cipher.open(data_key, row, {name: Envelope.parse(each) for name, each in stored.items()})

    def alone() -> None:
        for _ in range(SEALED):
            stored = {}
            for name, text in _PARTICULARS.items():
                nonce = os.urandom(12)
                stored[name] = nonce + bare.encrypt(nonce, text.encode(), associated)
            _ = {name: bare.decrypt(each[:12], each[12:], associated).decode() for name, each in stored.items()}

    ours()
    alone()
    rounds = [(_timed(ours), _timed(alone)) for _ in range(5 * ROUNDS)]
    return _compared("a member's record sealed and opened", "records/s", "AESGCM alone", SEALED, rounds, 0.5)


class _Orders:
    async def read(self, order_id: str) -> Order:
        return Order(order_id, "member-1", _AMOUNT, placed=True)

    inspect = read


class _Provider:
    async def hold(self, key: str, reference: str, amount: Money) -> ProviderAnswer:
        return ProviderAnswer(True, key)

    take = give_back = hold


async def _payments(url: str) -> list[Result]:
    engine = async_engine(url, "bench", pool_size=AT_ONCE)
    service = PaymentsService(PaymentStore(engine), _Orders(), _Provider(), SystemClock())
    statements: list[tuple[str, Any]] = []

    async def ours(count: int) -> None:
        await _at_once([lambda: _captured(service) for _ in range(count)])

    async def bare() -> None:
        connections = [await _plain(url) for _ in range(AT_ONCE)]
        try:
            idle = list(connections)

            async def one(four: Sequence[tuple[str, Any]]) -> None:
                connection = idle.pop()
                for sql, parameters in four:
                    await (await connection.execute(sql, parameters)).fetchall()
                idle.append(connection)

            fours = [statements[at : at + 4] for at in range(0, len(statements), 4)]
            started = time.perf_counter()
            await _at_once([partial(one, four) for four in fours])
            took.append(time.perf_counter() - started)
        finally:
            for connection in connections:
                await connection.close()

    took: list[float] = []
    rounds = []
    await ours(AT_ONCE * 4)
    for _ in range(ROUNDS):
        # What the room says to the database is written down once, with the ids that a second time needs.
        with _written_down(engine, statements):
            await _one_by_one([lambda: _captured(service) for _ in range(PAYMENTS)])
        _renamed(statements)
        started = time.perf_counter()
        await ours(PAYMENTS)
        mine = time.perf_counter() - started
        await bare()
        rounds.append((mine, took[-1]))
        statements.clear()
    everything = _compared(
        "captured payments, all in their transactions", "payments/s", "the same SQL bare", PAYMENTS, rounds, 0.6
    )
    few = statistics.median(mine for mine, _ in rounds)
    _fill_books(url)
    grown = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        await ours(PAYMENTS)
        grown.append(time.perf_counter() - started)
    await engine.dispose()
    many = statistics.median(grown)
    return [
        everything,
        Result(
            name=f"captured payments on {POSTINGS:,} postings",
            value=round(PAYMENTS / many, 1),
            unit="payments/s",
            baseline="on nearly none",
            baseline_value=round(PAYMENTS / few, 1),
            ratio=round(few / many, 3),
            target=0.7,
        ),
    ]


async def _captured(service: PaymentsService) -> None:
    number = secrets.token_hex(8)
    amount = money_pb2.Money(minor=_AMOUNT.minor, currency=_AMOUNT.currency)
    _begin("AuthorizePayment")
    hold = pb.AuthorizePaymentRequest(idempotency_key=f"hold-{number}", order_id=number, amount=amount)
    payment = (await service.AuthorizePayment(hold, None)).payment
    _begin("CapturePayment")
    take = pb.CapturePaymentRequest(idempotency_key=f"take-{number}", payment_id=payment.payment_id)
    await service.CapturePayment(take, None)


def _begin(method: str) -> None:
    policy = load().methods[f"/isthmus.payments.v1.Payments/{method}"]
    begin(Call(policy, None, time.monotonic() + 10, claims=Claims("shop", "shop", policy.scopes, 0, "t")))
    attached.begin(lambda code, reason: _record(policy.path, code.name))


@contextlib.contextmanager
def _written_down(engine: Database, statements: list[tuple[str, Any]]) -> Any:
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


def _fill_books(url: str) -> None:
    with psycopg.connect(_libpq(url)) as connection:
        connection.execute("SET session_replication_role = replica")
        for statement in (
            "INSERT INTO payments.payment (payment_id, order_id, state, currency, authorized, captured, source_time)"
            " SELECT 'p' || n, 'o' || n, 'captured', 'USD', 1, 1, now() FROM generate_series(1, %(n)s) AS n",
            "INSERT INTO payments.operation (operation_id, payment_id, kind, progress, amount)"
            " SELECT 't' || n, 'p' || n, 'capture', 'done', 1 FROM generate_series(1, %(n)s) AS n",
            "INSERT INTO payments.transfer (transfer_id, kind, source_time)"
            " SELECT 't' || n, 'capture', now() FROM generate_series(1, %(n)s) AS n",
            "INSERT INTO payments.posting (transfer_id, account, currency, amount)"
            " SELECT 't' || n, account, 'USD', sign FROM generate_series(1, %(n)s) AS n,"
            " (VALUES ('provider:receivable', 1), ('merchant:revenue', -1)) AS leg (account, sign)",
        ):
            connection.execute(statement, {"n": POSTINGS // 2})
    with psycopg.connect(_libpq(url), autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")


async def _audit(url: str, bench: Path) -> list[Result]:
    with psycopg.connect(_libpq(url), autocommit=True) as connection:
        connection.execute("CREATE TABLE public.copied (LIKE audit.record INCLUDING ALL)")
        connection.execute("SET session_replication_role = replica")
        connection.execute("TRUNCATE audit.record CASCADE")
    engine = async_engine(url, "bench")
    sink = PostgresAuditSink(async_engine(url, "bench-audit", pool_size=1), pending_max=RECORDS)
    await sink.start()
    signer = Signer.open_or_create(bench / "checkpoint.key", "isthmus.internal/audit")
    file = CheckpointFile(bench / "checkpoints.txt")
    sequencer = Sequencer(TreeStore(engine, signer, SystemClock()), signer.verifier, [file], 1.0)
    written = 0
    rounds: list[tuple[float, float]] = []
    into_tree: list[float] = []
    # Seconds for each leaf.
    verified: dict[int, float] = {}
    while written < LEAVES[-1]:
        records = [_record(_METHOD, "OK") for _ in range(RECORDS)]
        if len(rounds) < ROUNDS:
            copied = _timed(partial(_copy, url, records))
        started = time.perf_counter()
        for record in records[:-1]:
            sink.enqueue(record)
        await sink.append(records[-1])
        mine = time.perf_counter() - started
        if len(rounds) < ROUNDS:
            rounds.append((mine, copied))
        written += RECORDS
        await sequencer.round()
        into_tree.append(time.perf_counter() - started)
        for size in LEAVES:
            if size <= written and size not in verified:
                now_us = SystemClock().now_us()
                started = time.perf_counter()
                report = await asyncio.to_thread(inspect, url, file, signer.verifier, now_us)
                verified[size] = (time.perf_counter() - started) / written
                assert report.ok, report.findings
                assert report.leaves == written
    await sink.stop(5)
    await engine.dispose()
    log = _compared("audit records into the log", "records/s", "COPY into the same table", RECORDS, rounds, 0.7)
    rate = RECORDS / statistics.median(into_tree)
    whole = verified[LEAVES[-1]] * LEAVES[-1]
    return [
        log,
        Result(
            name="audit records into the log and the signed tree",
            value=round(rate),
            unit="leaves/s",
            baseline="what is asked for",
            baseline_value=LEAVES_A_SECOND,
            ratio=round(rate / LEAVES_A_SECOND, 3),
            target=1.0,
        ),
        Result(
            name=f"{LEAVES[-1]:,} leaves verified",
            value=round(whole, 2),
            unit="s",
            baseline="the longest that it may take",
            baseline_value=VERIFY_S,
            ratio=round(VERIFY_S / whole, 3),
            target=1.0,
        ),
        *(
            Result(
                name=f"leaves verified of {size:,}",
                value=round(1 / verified[size]),
                unit="leaves/s",
                baseline=f"of {LEAVES[0]:,}",
                baseline_value=round(1 / verified[LEAVES[0]]),
                ratio=round(verified[LEAVES[0]] / verified[size], 3),
                target=0.7,
            )
            for size in LEAVES[1:]
        ),
    ]


def _record(method: str, result: str) -> AuditRecord:
    return AuditRecord(
        record_id=secrets.token_hex(16),
        time_us=time.time_ns() // 1000,
        peer="spiffe://isthmus.internal/private/core-gateway",
        token_subject="member-1",  # noqa: S106
        token_client="shop",  # noqa: S106
        method=method,
        data_subject="0192f0c1-5d3e-7a43-8000-0123456789ab",
        decision=Decision.ALLOWED,
        result=result,
        reason="",
        trace_id="f" * 32,
        workload="payments",
        node="payments-1",
    )


def _copy(url: str, records: Sequence[AuditRecord]) -> None:
    names = AuditRecord.__slots__
    into = f"COPY public.copied (sequence, {', '.join(names)}, leaf_hash) FROM STDIN"
    first = next(_sequence) * RECORDS
    with (
        psycopg.connect(_libpq(url)) as connection,
        connection.cursor() as cursor,
        cursor.copy(into) as copy,
    ):
        for number, record in enumerate(records):
            row = [getattr(record, name) for name in names]
            copy.write_row((first + number, *row, record.leaf_hash()))


_sequence = iter(range(1, 1 << 30))


async def _at_once(work: Sequence[Callable[[], Awaitable[None]]]) -> None:
    waiting = iter(work)

    async def worker() -> None:
        for one in waiting:
            await one()

    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))


async def _one_by_one(work: Sequence[Callable[[], Awaitable[None]]]) -> None:
    for one in work:
        await one()


async def _plain(url: str) -> psycopg.AsyncConnection[Any]:
    return await psycopg.AsyncConnection.connect(_libpq(url), autocommit=True, prepare_threshold=2)


def _libpq(url: str) -> str:
    return url.replace("postgresql+psycopg://", "postgresql://", 1)


def _timed(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _compared(
    name: str, unit: str, baseline: str, count: int, rounds: Sequence[tuple[float, float]], target: float
) -> Result:
    """rounds: seconds of ours and of the baseline, for `count` of them each."""
    return Result(
        name=name,
        value=round(count / statistics.median(mine for mine, _ in rounds), 1),
        unit=unit,
        baseline=baseline,
        baseline_value=round(count / statistics.median(theirs for _, theirs in rounds), 1),
        ratio=round(statistics.median(theirs / mine for mine, theirs in rounds), 3),
        target=target,
    )
