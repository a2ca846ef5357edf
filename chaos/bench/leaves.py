"""How fast records get into the audit log and its tree, beside COPY, and how fast the log is verified as it grows.

Growth is measured on two logs of one server in turns: a small one, and one that is filled to each size before.
"""

import asyncio
import itertools
import statistics
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

import psycopg

from chaos.bench.report import Result
from chaos.bench.rounds import ROUNDS, compared, grown, libpq, record, timed
from mesh.clock import SystemClock
from mesh.database.engine import async_engine
from security.audit.checkpoint import CheckpointFile
from security.audit.inspection import inspect
from security.audit.note import Signer
from security.audit.postgres import PostgresAuditSink
from security.audit.record import AuditRecord
from security.audit.sequencer import Sequencer
from security.audit.tree_store import TreeStore

RECORDS: Final = 20_000
# Of a round on both logs, so that the small one stays small.
FEW_RECORDS: Final = 2_000
SMALL: Final = 10_000
LEAVES: Final = (100_000, 1_000_000)
VERIFY_ROUNDS: Final = 3
VERIFY_S: Final = 20.0
LEAVES_A_SECOND: Final = 20_000
_METHOD: Final = "/isthmus.payments.v1.Payments/CapturePayment"
_batches = itertools.count(1)


class _Log:
    """An audit log of its own, with its tree."""

    def __init__(self, url: str, bench: Path, name: str) -> None:
        self.url = url
        self.leaves = 0
        self._signer = Signer.open_or_create(bench / f"{name}.key", f"isthmus.internal/{name}")
        self._file = CheckpointFile(bench / f"{name}.txt")
        self._sink = PostgresAuditSink(async_engine(url, name, pool_size=1), pending_max=RECORDS)
        self._engine = async_engine(url, f"{name}-tree")
        store = TreeStore(self._engine, self._signer, SystemClock())
        self._sequencer = Sequencer(store, self._signer.verifier, [self._file])

    async def start(self) -> None:
        await self._sink.start()

    async def stop(self) -> None:
        await self._sink.stop(5)
        await self._engine.dispose()

    async def append(self, records: Sequence[AuditRecord]) -> tuple[float, float]:
        """Seconds until the records are durable, and until they are leaves of a signed tree."""
        started = time.perf_counter()
        for each in records[:-1]:
            self._sink.enqueue(each)
        await self._sink.append(records[-1])
        durable = time.perf_counter() - started
        await self._sequencer.round()
        self.leaves += len(records)
        return durable, time.perf_counter() - started

    async def verify(self) -> float:
        """Seconds to verify it whole."""
        now_us = SystemClock().now_us()
        started = time.perf_counter()
        report = await asyncio.to_thread(inspect, self.url, self._file, self._signer.verifier, now_us)
        took = time.perf_counter() - started
        assert report.ok, report.findings
        assert report.leaves == self.leaves
        return took


async def measure(small_url: str, url: str, bench: Path) -> list[Result]:
    small, log = _Log(small_url, bench, "small"), _Log(url, bench, "log")
    await small.start()
    await log.start()
    with psycopg.connect(libpq(url), autocommit=True) as connection:
        connection.execute("CREATE TABLE public.copied (LIKE audit.record INCLUDING ALL)")
    # The first round of each warms caches and connections, and counts for nothing.
    for each in (small, log):
        await each.append(_records(SMALL))
        await each.verify()
    _copy(url, _records(SMALL))
    rounds: list[tuple[float, float]] = []
    into_tree: list[float] = []
    results = []
    whole = 0.0
    for size in LEAVES:
        while log.leaves < size:
            records = _records(min(RECORDS, size - log.leaves))
            copied = timed(partial(_copy, url, records)) if len(rounds) < ROUNDS else 0.0
            durable, signed = await log.append(records)
            if len(records) == RECORDS:
                into_tree.append(signed)
                if copied:
                    rounds.append((durable, copied))
        for each in (small, log):
            with psycopg.connect(libpq(each.url), autocommit=True) as connection:
                connection.execute("VACUUM ANALYZE")
        verified = [(await log.verify(), await small.verify()) for _ in range(VERIFY_ROUNDS)]
        whole = statistics.median(many for many, _ in verified)
        sizes = (log.leaves, small.leaves)
        appended = [
            ((await log.append(_records(FEW_RECORDS)))[1], (await small.append(_records(FEW_RECORDS)))[1])
            for _ in range(ROUNDS)
        ]
        few, counts = f"{SMALL:,}", (FEW_RECORDS, FEW_RECORDS)
        results += [
            grown(f"leaves into a log of {size:,}", "leaves/s", f"into one of {few}", counts, appended),
            grown(f"leaves verified of {size:,}", "leaves/s", f"of {few}", sizes, verified),
        ]
    await small.stop()
    await log.stop()
    rate = RECORDS / statistics.median(into_tree)
    return [
        compared("audit records into the log", "records/s", "COPY into the same table", RECORDS, rounds, 0.7),
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
        *results,
    ]


def _records(count: int) -> list[AuditRecord]:
    return [record(_METHOD, "OK") for _ in range(count)]


def _copy(url: str, records: Sequence[AuditRecord]) -> None:
    names = AuditRecord.__struct_fields__
    into = f"COPY public.copied (sequence, {', '.join(names)}, leaf_hash) FROM STDIN"
    first = next(_batches) * RECORDS
    with (
        psycopg.connect(libpq(url)) as connection,
        connection.cursor() as cursor,
        cursor.copy(into) as copy,
    ):
        for number, each in enumerate(records):
            row = [getattr(each, name) for name in names]
            copy.write_row((first + number, *row, each.leaf_hash()))
