"""What the log says of a time: who saw whose personal data, who was refused in bursts, which rights were used."""

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from mesh.contract import Contract
from mesh.contract.model import DataClass
from security.audit.record import AuditRecord, Decision

BURST_DENIALS: Final = 10
BURST_S: Final = 60


@dataclass(slots=True)
class Sight:
    """who: the token's subject, or the workload where there was no token. About one member's data, by one method."""

    who: str
    about: str
    method: str
    calls: int = 0
    last_us: int = 0


@dataclass(slots=True)
class Burst:
    """Refusals of one caller, none of them longer than BURST_S behind the one before."""

    who: str
    denials: int
    from_us: int
    to_us: int
    reasons: set[str] = field(default_factory=set)


@dataclass(slots=True)
class Right:
    """One workload's right to call one method, as the contract gives it and as it was used."""

    workload: str
    method: str
    granted: bool
    allowed: int = 0
    denied: int = 0
    last_us: int = 0


@dataclass(slots=True)
class AccessReport:
    records: int
    sights: list[Sight]
    bursts: list[Burst]
    rights: list[Right]


def report(records: Iterable[AuditRecord], contract: Contract) -> AccessReport:
    """records: in the order in which they were written."""
    personal = {path for path, method in contract.methods.items() if method.answer_class >= DataClass.PERSONAL}
    sights: dict[tuple[str, str, str], Sight] = {}
    bursts = _Bursts()
    rights = _granted(contract)
    count = 0
    for record in records:
        count += 1
        workload = record.peer.rpartition("/")[2] or "?"
        who = record.token_subject or workload
        right = rights.setdefault((workload, record.method), Right(workload, record.method, granted=False))
        right.last_us = max(right.last_us, record.time_us)
        if record.decision is Decision.DENIED:
            right.denied += 1
            bursts.add(who, record)
            continue
        right.allowed += 1
        if record.method in personal and record.result == "OK":
            key = who, record.data_subject, record.method
            sight = sights.setdefault(key, Sight(*key))
            sight.calls += 1
            sight.last_us = max(sight.last_us, record.time_us)
    return AccessReport(
        count,
        sorted(sights.values(), key=lambda sight: (-sight.calls, sight.who, sight.about)),
        sorted(bursts.found(), key=lambda burst: -burst.denials),
        sorted(rights.values(), key=lambda right: (right.workload, right.method)),
    )


class _Bursts:
    def __init__(self) -> None:
        self._open: dict[str, Burst] = {}
        self._closed: deque[Burst] = deque()

    def add(self, who: str, record: AuditRecord) -> None:
        burst = self._open.get(who)
        if burst is None or record.time_us - burst.to_us > BURST_S * 1_000_000:
            if burst is not None:
                self._closed.append(burst)
            burst = self._open[who] = Burst(who, 0, record.time_us, record.time_us)
        burst.denials += 1
        burst.to_us = max(burst.to_us, record.time_us)
        burst.reasons.add(record.reason)

    def found(self) -> list[Burst]:
        return [burst for burst in (*self._closed, *self._open.values()) if burst.denials >= BURST_DENIALS]


def _granted(contract: Contract) -> dict[tuple[str, str], Right]:
    by: Mapping[str, set[str]] = defaultdict(set)
    for path, method in contract.methods.items():
        for workload in method.callers:
            by[workload].add(path)
    return {(workload, path): Right(workload, path, granted=True) for workload, paths in by.items() for path in paths}
