"""What the benchmarks of the private core share: rounds of two sides, and work done by several at once."""

import asyncio
import secrets
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from chaos.bench.report import Result
from security.audit.record import AuditRecord, Decision

ROUNDS: Final = 7
AT_ONCE: Final = 8
# Of its speed on a small table, at a hundred times the size.
GROWN_TARGET: Final = 0.7


def record(method: str, result: str) -> AuditRecord:
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


async def at_once(work: Sequence[Callable[[], Awaitable[None]]]) -> None:
    waiting = iter(work)

    async def worker() -> None:
        for one in waiting:
            await one()

    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))


async def one_by_one(work: Sequence[Callable[[], Awaitable[None]]]) -> None:
    for one in work:
        await one()


def libpq(url: str) -> str:
    """SQLAlchemy's URL as the driver reads it."""
    return url.replace("postgresql+psycopg://", "postgresql://", 1)


def timed(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def grown(name: str, unit: str, on: str, counts: tuple[float, float], rounds: Sequence[tuple[float, float]]) -> Result:
    """The same work on a large table and on a small one beside it, in turns.

    on: what the small one holds. counts: how much is done on the large one and on the small one, in the seconds of a
    round.
    """
    many, few = (statistics.median(each[side] for each in rounds) for side in (0, 1))
    ratio = statistics.median(few_s / counts[1] * counts[0] / many_s for many_s, few_s in rounds)
    return Result(name, round(counts[0] / many), unit, on, round(counts[1] / few), round(ratio, 3), GROWN_TARGET)


def compared(
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
