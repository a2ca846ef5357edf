"""Probes of the extension: how the mesh is, as its users and its operator see it now.

Availability and latency are those of the drill's own traffic over the last `window_s` seconds.
"""

import time

from chaoslib.exceptions import ActivityFailed
from isthmus.payments.v1.payments_pb2 import GetTrialBalanceRequest
from isthmus.payments.v1.payments_pb2_grpc import LedgerStub

from chaos.checkers import audit
from chaos.drill import current
from chaos.drill.session import Session
from chaos.load.outcomes import CallFailed
from chaos.load.timeline import PUBLIC, SENSITIVE, Call, availability, percentile_ms
from deploy.local import replication
from mesh.errors import MeshError

__all__ = [
    "a_member_can_register",
    "audit_verifies",
    "freshness_p99_ms",
    "ledger_balances",
    "mesh_is_ready",
    "public_availability",
    "public_p99_ms",
    "sensitive_availability",
    "standby_streams",
]
ANSWER_DEADLINE_S = 60.0
SECOND_LOOKS = 2
POLL_S = 0.1


def mesh_is_ready() -> bool:
    """Whether every process of the mesh runs and says that it is ready. Who is not is asked twice more: a machine that
    is busy with the traffic makes one answer late."""
    session = _session()
    wrong = session.looker.unwell()
    for _ in range(SECOND_LOOKS):
        if wrong:
            time.sleep(0.5)
            wrong = session.looker.unwell(wrong)
    return not wrong


def public_availability(window_s: float = 5.0) -> float:
    """The share of ads, clicks and pages that went well, from 0 to 1."""
    return availability(_recent(PUBLIC, window_s))


def sensitive_availability(window_s: float = 5.0) -> float:
    """The share of orders, payments, captures and reads that went well, from 0 to 1."""
    return availability(_recent(SENSITIVE, window_s))


def public_p99_ms(window_s: float = 5.0) -> float:
    """The 99th percentile of good public answers, in milliseconds from when they should have been sent."""
    return percentile_ms(_recent(PUBLIC, window_s), 0.99)


def freshness_p99_ms() -> float:
    """From a click's acceptance at the edge to its queryable row, over the drill's own clicks, in milliseconds."""
    session = _session()
    try:
        return session.loop.run(session.crowd.freshness(), ANSWER_DEADLINE_S).p99_ms
    except MeshError as error:
        raise ActivityFailed(f"the warehouse does not answer: {error}") from error


def ledger_balances() -> bool:
    """Whether the postings of every currency sum to zero."""
    session = _session()

    async def read() -> bool:
        ledger = LedgerStub(session.crowd.channel("payments"))
        balance = await ledger.GetTrialBalance(GetTrialBalanceRequest(), timeout=20.0)
        return all(one.minor == 0 for one in balance.sums)

    try:
        return session.loop.run(read(), ANSWER_DEADLINE_S)
    except MeshError as error:
        raise ActivityFailed(f"the ledger does not answer: {error}") from error


def a_member_can_register() -> bool:
    """Whether a new member's personal data is taken, encrypted under the keys of now."""
    session = _session()
    try:
        return bool(session.loop.run(session.crowd.register_one(), ANSWER_DEADLINE_S))
    except CallFailed as failure:
        raise ActivityFailed(f"nobody can register: {failure}") from failure


def standby_streams() -> bool:
    """Whether every commit waits for the second PostgreSQL: only then may it take over. Waits for a copy under way."""
    home = _session().target.home
    ends = time.monotonic() + ANSWER_DEADLINE_S
    while not replication.read(home).synchronous:
        if time.monotonic() > ends:
            return False
        time.sleep(0.5)
    return True


def audit_verifies() -> bool:
    """Whether the audit log is what was signed (`isthmus audit verify`)."""
    session = _session()
    return session.loop.run(audit.verifies(session.target.home.root), ANSWER_DEADLINE_S * 3)


def _recent(kinds: tuple[str, ...], window_s: float) -> list[Call]:
    """The calls of the last `window_s`. They come by chance: where none has, as long again is waited for one."""
    session = _session()

    async def read() -> list[Call]:
        timeline, now_s = session.crowd.timeline, session.crowd.traffic.now_s
        return list(timeline.calls(kinds, now_s - window_s))

    ends = time.monotonic() + window_s
    while not (found := session.loop.run(read(), ANSWER_DEADLINE_S)):
        if time.monotonic() > ends:
            # Nothing asked is nothing shown.
            raise ActivityFailed(f"no traffic in the last {2 * window_s:g} s")
        time.sleep(POLL_S)
    return found


def _session() -> Session:
    try:
        return current.session()
    except current.NoDrill as error:
        raise ActivityFailed(str(error)) from error
