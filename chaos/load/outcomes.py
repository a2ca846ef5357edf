"""What became of every call: answered well, answered badly, or not known."""

from array import array
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum

# The first few reasons of each kind are kept to be shown; the rest only count.
REASONS_MAX = 20


class Outcome(StrEnum):
    OK = "ok"
    # The answer was a refusal, or not what the contract promises.
    FAILED = "failed"
    # No answer came: what was asked may have happened, or not.
    UNKNOWN = "unknown"


class CallFailed(Exception):
    """One call that did not do what it should; `outcome` says whether an answer came."""

    def __init__(self, reason: str, outcome: Outcome = Outcome.FAILED) -> None:
        super().__init__(reason)
        self.outcome = outcome


@dataclass
class Tally:
    """Outcomes of the calls of one kind. Times are those of calls that went well, in seconds."""

    counts: Counter[Outcome] = field(default_factory=Counter)
    seconds: "array[float]" = field(default_factory=lambda: array("d"))
    reasons: Counter[str] = field(default_factory=Counter)

    @property
    def total(self) -> int:
        return self.counts.total()

    @property
    def not_ok(self) -> int:
        return self.total - self.counts[Outcome.OK]

    def percentile_ms(self, share: float) -> float:
        """The nearest-rank percentile in milliseconds; 0 when nothing went well."""
        if not self.seconds:
            return 0.0
        ordered = sorted(self.seconds)
        return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class Outcomes:
    """Every call of a run, by kind. The kind is a word like `ad`, `click`, `order`."""

    def __init__(self) -> None:
        self.kinds: dict[str, Tally] = {}

    def tally(self, kind: str) -> Tally:
        return self.kinds.setdefault(kind, Tally())

    def ok(self, kind: str, seconds: float) -> None:
        tally = self.tally(kind)
        tally.counts[Outcome.OK] += 1
        tally.seconds.append(seconds)

    def bad(self, kind: str, failure: CallFailed) -> None:
        tally = self.tally(kind)
        tally.counts[failure.outcome] += 1
        if str(failure) in tally.reasons or len(tally.reasons) < REASONS_MAX:
            tally.reasons[str(failure)] += 1

    def total(self, *kinds: str) -> int:
        return sum(self.tally(kind).total for kind in kinds)

    def not_ok(self, *kinds: str) -> int:
        return sum(self.tally(kind).not_ok for kind in kinds)

    def reasons(self) -> list[str]:
        """What went wrong, most frequent first: `kind: reason (times)`."""
        counted = [(times, kind, why) for kind, tally in self.kinds.items() for why, times in tally.reasons.items()]
        return [f"{kind}: {why} ({times})" for times, kind, why in sorted(counted, reverse=True)]
