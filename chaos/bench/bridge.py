"""How fast events land, and how fast the edge's spool takes them (spool.py).

Inward: a topic is filled with real impressions while no worker runs; then one worker lands them, batch by batch, each
with its offset, its ledger and its de-duplication. The baseline is PostgreSQL alone: the same rows, as text made
beforehand, by bare COPY and de-duplicated insert into one table with its key, in batches of the worker's size, by one
connection to the same server. Rounds of both are interleaved; the ratio is the median of the rounds' ratios. Then it
takes 1,000 clicks a second as they come from a spool, and each row says how long its click took. It stands still, and
its peers do the like on the same broker and the same database (peers/). Last, it goes on until ten million rows have
landed: its memory must be that of the beginning, and so must much of its rate.
"""

import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import psycopg
from confluent_kafka import Producer
from isthmus.events.v1 import events_pb2

from chaos.bench import spool
from chaos.bench.peers import connect
from chaos.bench.report import Result, asked
from chaos.bench.tools import BenchError
from chaos.conservation import CLICK
from chaos.load.impressions import ImpressionRow, read_impressions
from chaos.load.rows import IMPRESSIONS
from deploy.local.kafka import broker
from deploy.local.mesh import LocalMesh
from deploy.local.settings import REPOSITORY
from mesh.contract import load

EVENTS = 100_000
ROUNDS = 3
BATCH = 2_000
# Rows in the table at which memory and rate are looked at once more, and what is to be left of the first rate: ids are
# random, and the deeper their indexes are, the fewer of their pages are at hand. The last takes six minutes.
GROWTH = {1_000_000: 0.8, 10_000_000: 0.6}
FRESH_EVENTS, FRESH_PER_S = 10_000, 1_000
PEER_EVENTS = 200_000
WAIT_S = 300.0
# A worker slower than this has stopped.
LANDED_PER_S_MIN = 5_000
MEMORY_MIB_MAX = 250
PORT_BASE = 17_400
_EPOCH_INSTANT = "timestamptz 'epoch' + {0} * interval '1 microsecond'"
_COLUMNS = (
    "event_id", "source_time", "accepted_time", "node", "crawler", "slot", "campaign_id", "creative_id", "features",
    "trace_id", "record_partition", "record_offset",
)  # fmt: skip
_TIMES = {"source_time", "accepted_time"}


def run(home: Path) -> list[Result]:
    """Measure under `home`/bench/bridge. Raises BenchError."""
    bench = home / "bench" / "bridge"
    shutil.rmtree(bench, ignore_errors=True)
    bench.mkdir(parents=True)
    try:
        results = [*spool.measure(bench / "spool"), *asyncio.run(_inbound(bench / "mesh"))]
    finally:
        for leftover in ("spool", "mesh"):
            shutil.rmtree(bench / leftover, ignore_errors=True)
    return results


async def _inbound(home: Path) -> list[Result]:
    # An edge node brings the identity to send with; it takes no part.
    only = ("bridge-inbound", "edge")
    async with LocalMesh(home, PORT_BASE, edge_nodes=1, only=only) as mesh:
        await mesh.suspend("edge-1")
        rows = read_impressions([mesh.settings.cache / "datasets" / path for path in IMPRESSIONS])
        database = mesh.database_url.replace("postgresql+psycopg://", "postgresql://", 1)
        rounds: list[tuple[float, float]] = []
        memory_mib: list[float] = []
        for number in range(ROUNDS + 1):
            events = EVENTS if number else EVENTS // 5
            await mesh.suspend("bridge-inbound")
            await asyncio.to_thread(_fill, mesh, rows, number, events)
            bare = await asyncio.to_thread(_bare, database, rows, number, events)
            before = _landed(database)
            await mesh.resume("bridge-inbound")
            rate = await asyncio.to_thread(_land, database, before, events)
            memory_mib.append(_memory_mib(mesh))
            if number:
                rounds.append((rate, bare))
        fresh_ms = await _freshness(mesh, home / "fresh", database)
        await mesh.suspend("bridge-inbound")
        # While the topic is small: a mirror that finds millions of records fills its memory with what it reads ahead.
        sunk = await asyncio.to_thread(connect.debezium, mesh, rows, PEER_EVENTS, home)
        mirrored = await asyncio.to_thread(connect.mirror, mesh, _topic(), PEER_EVENTS, home)
        await mesh.resume("bridge-inbound")
        landed_in_all = EVENTS // 5 + ROUNDS * EVENTS
        grown: list[tuple[int, float, float]] = []
        for number, total in enumerate(GROWTH, ROUNDS + 1):
            events = total - landed_in_all
            landed_in_all = total
            await mesh.suspend("bridge-inbound")
            await asyncio.to_thread(_fill, mesh, rows, number, events)
            before = _landed(database)
            await mesh.resume("bridge-inbound")
            rate = await asyncio.to_thread(_land, database, before, events)
            grown.append((total, rate, _memory_mib(mesh)))
    landed = statistics.median(rate for rate, _ in rounds)
    return [
        Result(
            name="impressions landed by one worker",
            value=landed,
            unit="rows/s",
            baseline=f"bare COPY and de-duplicated insert, batches of {BATCH:,}",
            baseline_value=statistics.median(bare for _, bare in rounds),
            ratio=round(statistics.median(rate / bare for rate, bare in rounds), 3),
            target=0.6,
        ),
        Result(
            name="the same, against a sink",
            value=landed,
            unit="rows/s",
            baseline=f"Debezium JDBC sink on Kafka Connect, topic to PostgreSQL{sunk.remark}",
            baseline_value=sunk.per_s,
            ratio=round(landed / sunk.per_s, 3),
            target=3.0,
        ),
        Result(
            name="the same, against a mirror",
            value=landed,
            unit="rows/s",
            baseline=f"MirrorMaker 2, topic to topic{mirrored.remark}",
            baseline_value=mirrored.per_s,
            ratio=round(landed / mirrored.per_s, 3),
            target=1.0,
        ),
        *(one for total, rate, mib in grown for one in _flat(total, rate, landed, mib, memory_mib[1])),
        asked(f"p99 from click to row at {FRESH_PER_S:,} events/s", fresh_ms, "ms", 100, lambda v, a: a / v),
    ]


def _flat(total: int, rate: float, rate_first: float, mib: float, mib_first: float) -> list[Result]:
    """At so many rows against the first hundred thousand."""
    return [
        asked(f"memory of the worker at {total:,} rows", mib, "MiB", MEMORY_MIB_MAX, lambda v, a: a / v),
        Result(
            name=f"memory of the worker at {total:,} rows",
            value=mib,
            unit="MiB",
            baseline=f"at {EVENTS:,}: flat",
            baseline_value=mib_first,
            ratio=round(mib_first / mib, 3),
            target=0.85,
        ),
        Result(
            name=f"impressions landed up to {total:,} rows",
            value=rate,
            unit="rows/s",
            baseline=f"up to {EVENTS * ROUNDS:,}: flat",
            baseline_value=rate_first,
            ratio=round(rate / rate_first, 3),
            target=GROWTH[total],
        ),
    ]


async def _freshness(mesh: LocalMesh, directory: Path, url: str) -> float:
    """The 99th percentile, in milliseconds, from the acceptance of clicks at a spool of their own to their rows."""
    environment = os.environ | {
        "ISTHMUS_NODE": "edge-1",
        "ISTHMUS_IDENTITY_DIR": str(mesh.home.identity("edge-1")),
        "ISTHMUS_KAFKA_BOOTSTRAP": mesh.kafka_bootstrap,
    }
    command = (sys.executable, "-m", "public_edge.spool", str(directory))
    process = await asyncio.create_subprocess_exec(
        *command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment, cwd=REPOSITORY
    )
    assert process.stdin is not None
    try:
        began = time.monotonic()
        for number in range(FRESH_EVENTS):
            await asyncio.sleep(max(0.0, began + number / FRESH_PER_S - time.monotonic()))
            process.stdin.write(_click(number))
        return await asyncio.to_thread(_fresh_p99_ms, url)
    finally:
        process.kill()
        await process.wait()


def _click(number: int) -> bytes:
    now_us = time.time_ns() // 1000
    click = events_pb2.Click(
        event_id=f"{0xFE:08x}{number:024x}",
        source_time_us=now_us,
        accepted_time_us=now_us,
        node="edge-1",
        slot="position-1",
        campaign_id="freshness",
        impression_id=f"{0xFF:08x}{number:024x}",
    )
    return b"%d %s\n" % (CLICK, click.SerializeToString().hex().encode())


def _fresh_p99_ms(url: str) -> float:
    """Of the second half: what starts up delays the first."""
    deadline = time.monotonic() + WAIT_S
    with psycopg.connect(url, autocommit=True) as connection:
        while time.monotonic() < deadline:
            row = connection.execute(
                "SELECT count(*), percentile_cont(0.99) WITHIN GROUP (ORDER BY extract(epoch FROM landed_time -"
                " accepted_time) * 1000) FILTER (WHERE accepted_time > middle) FROM warehouse.click, (SELECT"
                " min(accepted_time) + (max(accepted_time) - min(accepted_time)) / 2 AS middle FROM warehouse.click"
                " WHERE campaign_id = 'freshness') AS half WHERE campaign_id = 'freshness'"
            ).fetchone()
            assert row is not None
            if row[0] == FRESH_EVENTS:
                return float(row[1])
            time.sleep(0.1)
    raise BenchError(f"{FRESH_EVENTS:,} clicks did not land within {WAIT_S:.0f} s")


def _event(row: ImpressionRow, number: int, run_number: int) -> events_pb2.Impression:
    return events_pb2.Impression(
        event_id=f"{run_number:08x}{number:024x}",
        source_time_us=row.source_time_us,
        accepted_time_us=time.time_ns() // 1000,
        node="edge-1",
        slot=row.slot,
        campaign_id=f"{row.collection}-{row.item}",
        creative_id=f"{row.collection}-{row.item}-1",
        features=row.features,
    )


def _numbered(rows: Sequence[ImpressionRow], events: int) -> Iterator[tuple[int, ImpressionRow]]:
    return ((number, rows[number % len(rows)]) for number in range(events))


def _topic() -> str:
    return load().events["isthmus.events.v1.Impression"].topic


def _fill(mesh: LocalMesh, rows: Sequence[ImpressionRow], run_number: int, events: int) -> None:
    settings = broker.client_settings(mesh.home.identity("edge-1"), mesh.kafka_bootstrap)
    producer = Producer({**settings, "enable.idempotence": True, "linger.ms": 20, "compression.type": "lz4"})
    topic = _topic()
    for number, row in _numbered(rows, events):
        event = _event(row, number, run_number)
        headers: list[tuple[str, str | bytes | None]] = [
            ("event-id", event.event_id),
            ("kind", event.DESCRIPTOR.full_name),
            ("origin", "public"),
            ("node", "edge-1"),
            ("minute", str(event.accepted_time_us // 60_000_000)),
            ("traceparent", f"00-{event.event_id[::-1]}-00f067aa0ba902b7-01"),
        ]
        while True:
            try:
                producer.produce(topic, event.SerializeToString(), event.event_id, headers=headers)
                break
            except BufferError:
                producer.poll(0.1)
    if producer.flush(WAIT_S):
        raise BenchError("Kafka did not take all events in time")


def _bare(url: str, rows: Sequence[ImpressionRow], run_number: int, events: int) -> float:
    """Rows per second into a table of the same shape, from text that is there already."""
    lines = [
        "\t".join(map(str, (
            event.event_id, event.source_time_us, event.accepted_time_us, event.node, "f", event.slot,
            event.campaign_id, event.creative_id, json.dumps(dict(event.features)),
            event.event_id[::-1], number % 4, number,
        )))
        for number, row in _numbered(rows, events)
        for event in (_event(row, number, run_number),)
    ]  # fmt: skip
    texts = ["\n".join(lines[at : at + BATCH]) + "\n" for at in range(0, len(lines), BATCH)]
    names = ", ".join(_COLUMNS)
    values = ", ".join(_EPOCH_INSTANT.format(name) if name in _TIMES else name for name in _COLUMNS)
    staged = ", ".join(f"{name} {_staged(name)}" for name in _COLUMNS)
    with psycopg.connect(url, autocommit=True, options="-c synchronous_commit=off -c timezone=UTC") as connection:
        connection.execute("CREATE SCHEMA IF NOT EXISTS bench")
        # One table with its key, as the question has it.
        shape = "LIKE warehouse.impression INCLUDING ALL, PRIMARY KEY (event_id)"
        connection.execute(f"CREATE TABLE IF NOT EXISTS bench.impression ({shape})")
        connection.execute(f"CREATE TEMPORARY TABLE staged ({staged}) ON COMMIT DELETE ROWS")
        began = time.perf_counter()
        for text in texts:
            with connection.transaction(), connection.cursor() as cursor:
                with cursor.copy(f"COPY staged ({names}) FROM STDIN (FORMAT text, NULL '')") as copy:
                    copy.write(text)
                cursor.execute(
                    f"INSERT INTO bench.impression ({names}) SELECT {values} FROM staged"  # noqa: S608
                    " ON CONFLICT (event_id) DO NOTHING"
                )
        return events / (time.perf_counter() - began)


def _staged(name: str) -> str:
    kinds = {
        "event_id": "uuid",
        "trace_id": "uuid",
        "crawler": "boolean",
        "features": "jsonb",
        "record_partition": "integer",
    }
    return kinds.get(name, "bigint" if name in _TIMES or name == "record_offset" else "text")


def _landed(url: str) -> int:
    with psycopg.connect(url, autocommit=True) as connection:
        return _count(connection)


def _count(connection: "psycopg.Connection[Any]") -> int:
    row = connection.execute("SELECT coalesce(sum(landed), 0)::bigint FROM bridge.landing").fetchone()
    assert row is not None
    return int(row[0])


def _land(url: str, before: int, events: int) -> float:
    """Rows per second from the first batch seen to the last; what the worker takes to start is not counted."""
    wait_s = WAIT_S + events / LANDED_PER_S_MIN
    deadline = time.monotonic() + wait_s
    first: tuple[float, int] | None = None
    with psycopg.connect(url, autocommit=True) as connection:
        while time.monotonic() < deadline:
            landed, now = _count(connection) - before, time.perf_counter()
            if landed and first is None:
                first = (now, landed)
            if landed >= events:
                assert first is not None
                return (landed - first[1]) / (now - first[0])
            time.sleep(0.01)
    raise BenchError(f"the worker did not land {events:,} events within {wait_s:.0f} s")


def _memory_mib(mesh: LocalMesh) -> float:
    process = psutil.Process(mesh.process("bridge-inbound").pid)
    return float(process.memory_info().rss) / (1 << 20)
