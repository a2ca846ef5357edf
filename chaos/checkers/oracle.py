"""The oracle of a drill, after Jepsen: what the mesh acknowledged against what its books hold. It knows no faults."""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field

from chaos.checkers.books import Books, Traffic
from chaos.checkers.expected import Month
from chaos.checkers.verdict import Check
from chaos.load.acknowledged import Acknowledged, Promised
from chaos.load.traffic import MONTH
from chaos.load.transactions import CURRENCY

# Of what is wrong, as many are told as it takes to find the rest.
TOLD_MAX = 5


@dataclass
class Findings:
    """What was found out beside the books. Everything here is a list of what is wrong, but for the leaves."""

    # Purchases that could not be completed even after the faults.
    unfinished: list[str] = field(default_factory=list)
    # Acknowledged orders that cannot be read, or read otherwise.
    missing_orders: list[str] = field(default_factory=list)
    # Reads of the ledger, during the run, that did not sum to zero.
    unbalanced: list[str] = field(default_factory=list)
    ledger_reads: int = 0
    # By method, the traces of records that have their leaf.
    leaves: Mapping[str, Set[str]] = field(default_factory=dict)
    audit_verifies: bool = False
    personal_in_public: list[str] = field(default_factory=list)


def judge(promises: Acknowledged, added: Books, findings: Findings) -> tuple[Check, ...]:
    """All checks. `added` is what the books gained over the run, read when every purchase is settled."""
    return (*_events(promises, added), *_business(promises, added, findings), *_records(promises, findings))


def lost_events(promises: Acknowledged, added: Books) -> int:
    """Acknowledged events that have not landed (yet)."""
    pages = max(0, promises.pages.acknowledged - added.pages)
    return pages + sum(max(0, one.acknowledged - landed) for one, landed in _pairs(promises, added))


def lost_business(promises: Acknowledged, added: Books) -> int:
    """Acknowledged orders and payments that these books do not hold, settled or not."""
    ordered = sum(bool(one.order_id) for one in promises.purchases)
    taken = sum(one.captured for one in promises.purchases)
    pairs = ((ordered, added.orders), (taken, added.captures))
    return sum(max(0, count - booked.get(MONTH, Month()).count) for count, booked in pairs)


def acknowledged_events(promises: Acknowledged) -> int:
    return sum(one.acknowledged for one in (*promises.impressions.values(), *promises.clicks.values()))


def landed_events(promises: Acknowledged, added: Books) -> int:
    """Of the slots that anything was promised of."""
    return sum(landed for _, landed in _pairs(promises, added))


def _pairs(promises: Acknowledged, added: Books) -> Iterable[tuple[Promised, int]]:
    for slot, one in promises.impressions.items():
        yield one, added.slots.get(slot, Traffic()).impressions
    for slot, one in promises.clicks.items():
        yield one, added.slots.get(slot, Traffic()).gross


def _events(promises: Acknowledged, added: Books) -> Iterable[Check]:
    yield Check("acknowledged events lost", 0, lost_events(promises, added))
    # What was not acknowledged may have happened, once.
    doubled = sum(max(0, landed - one.acknowledged - one.open) for one, landed in _pairs(promises, added))
    yield Check("events doubled", 0, doubled + added.doubled_rows)
    yield Check("dead letters", 0, added.dead_letters)


def _business(promises: Acknowledged, added: Books, findings: Findings) -> Iterable[Check]:
    yield _none("purchases that cannot be completed", findings.unfinished)
    ordered = _month(one.amount_minor for one in promises.purchases if one.order_id)
    taken = _month(one.amount_minor for one in promises.purchases if one.captured)
    for name, promised, booked in (("orders", ordered, added.orders), ("payments", taken, added.captures)):
        found = booked.get(MONTH, Month())
        yield Check(f"acknowledged {name} lost", 0, max(0, promised.count - found.count))
        yield Check(f"{name} doubled", 0, max(0, found.count - promised.count))
        yield Check(f"amount of {name}", promised.minor, found.minor)
    yield _none("acknowledged orders that cannot be read", findings.missing_orders)
    yield _none("orders not seen by who had placed them", promises.stale_reads)
    yield Check("ledger sum", 0, added.ledger_sums.get(CURRENCY, 0))
    yield _none("ledger reads that did not balance", findings.unbalanced)
    yield Check("ledger reads", 1, findings.ledger_reads, at_least=True)


def _records(promises: Acknowledged, findings: Findings) -> Iterable[Check]:
    nothing: Set[str] = frozenset()
    bare = sum(
        trace not in findings.leaves.get(method, nothing)
        for purchase in promises.purchases
        for method, trace in purchase.traces
    )
    yield Check("acknowledged private calls without a leaf", 0, bare)
    yield Check("the audit log verifies", True, findings.audit_verifies)
    yield _none("personal values in the public zone", findings.personal_in_public)


def _none(name: str, found: Sequence[str]) -> Check:
    """Holds when nothing was found, and else says what."""
    return Check(name, 0, len(found), "; ".join(found[:TOLD_MAX]))


def _month(amounts: Iterable[int]) -> Month:
    return sum((Month(1, amount) for amount in amounts), Month())
