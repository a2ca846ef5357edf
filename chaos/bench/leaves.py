"""How fast records get into the audit log and its tree, beside COPY, and how fast the log is verified as it grows."""

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
from chaos.bench.rounds import ROUNDS, compared, libpq, record, timed
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
LEAVES: Final = (10_000, 100_000, 1_000_000)
VERIFY_S: Final = 20.0
LEAVES_A_SECOND: Final = 20_000
_METHOD: Final = "/isthmus.payments.v1.Payments/CapturePayment"
_batches = itertools.count(1)


async def measure(url: str, bench: Path) -> list[Result]:
    with psycopg.connect(libpq(url), autocommit=True) as connection:
        connection.execute("CREATE TABLE public.copied (LIKE audit.record INCLUDING ALL)")
    engine = async_engine(url, "bench")
    sink = PostgresAuditSink(async_engine(url, "bench-audit", pool_size=1), pending_max=RECORDS)
    await sink.start()
    signer = Signer.open_or_create(bench / "checkpoint.key", "isthmus.internal/audit")
    file = CheckpointFile(bench / "checkpoints.txt")
    sequencer = Sequencer(TreeStore(engine, signer, SystemClock()), signer.verifier, [file])
    written = 0
    rounds: list[tuple[float, float]] = []
    into_tree: list[float] = []
    # Seconds for each leaf.
    verified: dict[int, float] = {}
    while written < LEAVES[-1]:
        records = [record(_METHOD, "OK") for _ in range(RECORDS)]
        if len(rounds) < ROUNDS:
            copied = timed(partial(_copy, url, records))
        started = time.perf_counter()
        for each in records[:-1]:
            sink.enqueue(each)
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
    log = compared("audit records into the log", "records/s", "COPY into the same table", RECORDS, rounds, 0.7)
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


def _copy(url: str, records: Sequence[AuditRecord]) -> None:
    names = AuditRecord.__slots__
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
