"""The checks that decide whether a run held: what was expected, what the books say, and nothing in between."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from chaos.checkers.books import Books, Traffic
from chaos.checkers.expected import Expected, Month
from chaos.load.transactions import CURRENCY

KAFKA_OUTAGE_S_MIN = 15.0


@dataclass(frozen=True)
class Check:
    """One statement. It holds when `observed` is what was expected.

    of: the slot or month it is about, or what was found.
    """

    name: str
    expected: object
    observed: object
    of: str = ""
    # The expected value is a lower bound.
    at_least: bool = False
    # Judged by whoever had the tolerance; `expected` and `observed` then only say it.
    met: bool | None = None

    @property
    def ok(self) -> bool:
        if self.met is not None:
            return self.met
        if self.at_least:
            return float(str(self.observed)) >= float(str(self.expected))
        return self.expected == self.observed


@dataclass(frozen=True)
class Evidence:
    """What only the runner can know: what the public was told, and what was broken on purpose."""

    public_failures: int
    sensitive_failures: int
    # Pages read before traffic started, to see that the catalogue was live.
    pages_before: int
    edge_nodes_to_kill: int
    edge_nodes_killed: int
    edge_nodes_not_back: int
    kafka_outages: int
    kafka_outage_seconds: float


@dataclass(frozen=True)
class Loss:
    """Events that the files promise and the warehouse lacks, and rows that it has too many."""

    lost: int
    duplicated: int


def loss(expected: Expected, books: Books, pages_before: int) -> Loss:
    pairs = [(number, books.slots.get(slot, Traffic()).impressions) for slot, number in expected.impressions.items()]
    pairs += [(number, books.slots.get(slot, Traffic()).clicks) for slot, number in expected.clicks.items()]
    pairs.append((expected.pages + pages_before, books.pages))
    lost = sum(max(0, wanted - landed) for wanted, landed in pairs)
    return Loss(lost, books.doubled_rows + sum(max(0, landed - wanted) for wanted, landed in pairs))


def landed(expected: Expected, books: Books, pages_before: int) -> bool:
    """Nothing that the files promise is missing any more."""
    return loss(expected, books, pages_before).lost == 0 and books.captures == expected.months


def judge(expected: Expected, books: Books, evidence: Evidence) -> tuple[Check, ...]:
    """All checks of a run. `books` is what the run added."""
    return (*_traffic(expected, books, evidence), *_business(expected, books), *_run(evidence))


def held(checks: Iterable[Check]) -> bool:
    """True when there is at least one check and all hold: nothing checked is nothing shown."""
    verdicts = [check.ok for check in checks]
    return bool(verdicts) and all(verdicts)


def _traffic(expected: Expected, books: Books, evidence: Evidence) -> Iterable[Check]:
    for slot, number in expected.impressions.items():
        yield Check("impressions per slot", number, books.slots.get(slot, Traffic()).impressions, slot)
    for slot, number in expected.clicks.items():
        yield Check("clicks per slot", number, books.slots.get(slot, Traffic()).gross, slot)
    for slot, number in expected.clicks.items():
        yield Check("net clicks per slot", number, books.slots.get(slot, Traffic()).net, slot)
    yield Check("content views", expected.pages + evidence.pages_before, books.pages)
    yield Check(
        "slots and campaigns agree",
        sum((traffic.impressions for traffic in books.slots.values()), 0),
        sum((traffic.impressions for traffic in books.campaigns.values()), 0),
    )
    missing = loss(expected, books, evidence.pages_before)
    yield Check("events lost", 0, missing.lost)
    yield Check("events duplicated", 0, missing.duplicated)
    yield Check("dead letters", 0, books.dead_letters)


def _business(expected: Expected, books: Books) -> Iterable[Check]:
    yield Check("members", expected.members, books.members)
    yield from _months("orders per month", expected.months, books.orders)
    yield from _months("captures per month", expected.months, books.captures)
    # A ledger without postings would sum to zero too.
    currencies = set(books.ledger_sums) | ({CURRENCY} if expected.orders.minor else set())
    for currency in sorted(currencies):
        yield Check("ledger sum", 0, books.ledger_sums.get(currency), currency)


def _months(name: str, expected: Mapping[str, Month], observed: Mapping[str, Month]) -> Iterable[Check]:
    for month in sorted(expected.keys() | observed.keys()):
        yield Check(name, expected.get(month, Month()), observed.get(month, Month()), month)


def _run(evidence: Evidence) -> Iterable[Check]:
    yield Check("failed public requests", 0, evidence.public_failures)
    yield Check("failed orders, payments and registrations", 0, evidence.sensitive_failures)
    yield Check("edge nodes killed", evidence.edge_nodes_to_kill, evidence.edge_nodes_killed)
    yield Check("edge nodes that did not come back", 0, evidence.edge_nodes_not_back)
    if evidence.kafka_outages:
        yield Check("seconds without Kafka", KAFKA_OUTAGE_S_MIN, evidence.kafka_outage_seconds, at_least=True)
