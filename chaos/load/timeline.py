"""Every call of a run with its moment, so that what it met can be laid beside the faults of that moment."""

from array import array
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass

from chaos.load.outcomes import CallFailed, Outcome

PUBLIC = ("ad", "click", "page")
SENSITIVE = ("order", "payment", "capture", "read")
_KINDS = (*PUBLIC, *SENSITIVE)
_OUTCOMES = tuple(Outcome)
REASONS_MAX = 40


@dataclass(frozen=True, slots=True)
class Call:
    """`due_s` is seconds since the run began; `seconds` from then to the answer."""

    due_s: float
    seconds: float
    kind: str
    outcome: Outcome


class Timeline:
    """Calls in the order of their answers. Bounded by the rate and length of a run, 20 bytes a call."""

    def __init__(self) -> None:
        self._due_s = array("d")
        self._seconds = array("d")
        self._what = array("b")
        self.reasons: dict[str, int] = {}
        # Of refusals with 503: how many said when to come again.
        self.unavailable = 0
        self.unavailable_with_retry_after = 0

    def __len__(self) -> int:
        return len(self._due_s)

    @property
    def end_s(self) -> float:
        """When the last call was due."""
        return max(self._due_s, default=0.0)

    def ok(self, kind: str, due_s: float, seconds: float) -> None:
        self._add(kind, due_s, seconds, Outcome.OK)

    def bad(self, kind: str, due_s: float, seconds: float, failure: CallFailed) -> None:
        self._add(kind, due_s, seconds, failure.outcome)
        reason = f"{kind}: {failure}"
        if reason in self.reasons or len(self.reasons) < REASONS_MAX:
            self.reasons[reason] = self.reasons.get(reason, 0) + 1

    def calls(self, kinds: Iterable[str] = _KINDS, from_s: float = 0.0, to_s: float = float("inf")) -> Iterable[Call]:
        """Calls that were due in [from_s, to_s)."""
        wanted = {_KINDS.index(kind) for kind in kinds}
        for due_s, seconds, what in zip(self._due_s, self._seconds, self._what, strict=True):
            kind, outcome = divmod(what, len(_OUTCOMES))
            if kind in wanted and from_s <= due_s < to_s:
                yield Call(due_s, seconds, _KINDS[kind], _OUTCOMES[outcome])

    def _add(self, kind: str, due_s: float, seconds: float, outcome: Outcome) -> None:
        self._due_s.append(due_s)
        self._seconds.append(seconds)
        self._what.append(_KINDS.index(kind) * len(_OUTCOMES) + _OUTCOMES.index(outcome))


def percentile_ms(calls: Iterable[Call], share: float) -> float:
    """Nearest-rank percentile of the good answers, in milliseconds; 0 when nothing went well."""
    ordered = sorted(call.seconds for call in calls if call.outcome is Outcome.OK)
    if not ordered:
        return 0.0
    return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def availability(calls: Iterable[Call]) -> float:
    """The share of calls that went well; 1 when there were none."""
    good = total = 0
    for call in calls:
        total += 1
        good += call.outcome is Outcome.OK
    return good / total if total else 1.0


@dataclass(frozen=True)
class Second:
    """One bucket of the timeline."""

    at_s: float
    calls: int
    failed: int
    p50_ms: float
    p99_ms: float


def buckets(calls: Iterable[Call], end_s: float, width_s: float = 1.0) -> list[Second]:
    """The timeline in equal steps from 0 to `end_s`."""
    edges = [width_s * n for n in range(1, int(end_s / width_s) + 2)]
    parted: list[list[Call]] = [[] for _ in edges]
    for call in calls:
        parted[min(bisect_left(edges, call.due_s), len(edges) - 1)].append(call)
    return [
        Second(
            edge - width_s,
            len(part),
            sum(call.outcome is not Outcome.OK for call in part),
            percentile_ms(part, 0.5),
            percentile_ms(part, 0.99),
        )
        for edge, part in zip(edges, parted, strict=True)
    ]
