"""What a provider says it did, held against what is written here: every difference has a name, and none is mended."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from typing import Final, Protocol

from mesh.errors import ResourceExhausted
from private_core.payments.domain import Kind, Progress

# Lines of one day.
LINES_MAX: Final = 1_000_000


class Act(StrEnum):
    """What a provider does, in its words."""

    HOLD = "hold"
    TAKE = "take"
    RELEASE = "release"
    RETURN = "return"


ACTS: Final = {
    Kind.HOLD: Act.HOLD,
    Kind.CAPTURE: Act.TAKE,
    Kind.VOID: Act.RELEASE,
    Kind.EXPIRE: Act.RELEASE,
    Kind.REFUND: Act.RETURN,
}


class Name(StrEnum):
    """What a difference is called."""

    # The provider did something that was never asked for here.
    UNKNOWN_HERE = "unknown-here"
    # It was done by the provider, and has not ended here.
    OPEN_HERE = "open-here"
    # It ended here by the provider's answer, and the provider does not state it.
    UNKNOWN_THERE = "unknown-there"
    TWICE_THERE = "twice-there"
    ACT_DIFFERS = "act-differs"
    PAYMENT_DIFFERS = "payment-differs"
    AMOUNT_DIFFERS = "amount-differs"
    CURRENCY_DIFFERS = "currency-differs"
    # Done there and declined here, or the reverse.
    OUTCOME_DIFFERS = "outcome-differs"
    # Done here, and the books do not hold just this amount.
    POSTING_DIFFERS = "posting-differs"


@dataclass(frozen=True, slots=True)
class Line:
    """What the provider says of one operation. reference: our payment's id."""

    operation_id: str
    act: Act
    reference: str
    minor: int
    currency: str
    approved: bool
    provider_id: str


@dataclass(frozen=True, slots=True)
class Entry:
    """What is written here of it. posted_minor: what its transfer moved; None without one."""

    operation_id: str
    kind: Kind
    progress: Progress
    payment_id: str
    minor: int
    currency: str
    posted_minor: int | None


@dataclass(frozen=True, slots=True)
class Difference:
    operation_id: str
    name: Name
    here: str
    there: str


class Statements(Protocol):
    """Port to what a provider states."""

    name: str
    # What it states; of anything else its silence says nothing.
    acts: frozenset[Act]

    def lines(self, day: date) -> AsyncIterator[Line]:
        """What was done on one day. Raises MeshError when the provider cannot say it now."""


def compare(line: Line, entry: Entry | None) -> Iterator[Difference]:
    """Every way in which the two differ."""

    def differs(name: Name, here: object, there: object) -> Difference:
        return Difference(line.operation_id, name, str(here), str(there))

    if entry is None:
        yield differs(Name.UNKNOWN_HERE, "", f"{line.act} {line.minor} {line.currency}")
        return
    if ACTS[entry.kind] is not line.act:
        yield differs(Name.ACT_DIFFERS, ACTS[entry.kind], line.act)
    if entry.payment_id != line.reference:
        yield differs(Name.PAYMENT_DIFFERS, entry.payment_id, line.reference)
    if entry.minor != line.minor:
        yield differs(Name.AMOUNT_DIFFERS, entry.minor, line.minor)
    if entry.currency != line.currency:
        yield differs(Name.CURRENCY_DIFFERS, entry.currency, line.currency)
    if entry.progress is Progress.OPEN:
        yield differs(Name.OPEN_HERE, entry.progress, "done" if line.approved else "declined")
    elif (entry.progress is Progress.DONE) != line.approved:
        yield differs(Name.OUTCOME_DIFFERS, entry.progress, "done" if line.approved else "declined")
    elif entry.progress is Progress.DONE and entry.posted_minor != entry.minor:
        yield differs(Name.POSTING_DIFFERS, entry.posted_minor, entry.minor)


def unknown_there(entry: Entry) -> Difference:
    here = f"{ACTS[entry.kind]} {entry.minor} {entry.currency}"
    return Difference(entry.operation_id, Name.UNKNOWN_THERE, here, "")


def twice_there(line: Line) -> Difference:
    return Difference(line.operation_id, Name.TWICE_THERE, "", line.provider_id)


def too_long(day: date) -> ResourceExhausted:
    return ResourceExhausted("STATEMENT_TOO_LONG", f"the statement of {day} has more than {LINES_MAX} lines")
