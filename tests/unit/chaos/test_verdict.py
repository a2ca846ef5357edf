from dataclasses import replace

import pytest

from chaos.checkers.books import Books, Traffic
from chaos.checkers.expected import Expected, Month, expected
from chaos.checkers.verdict import Evidence, held, judge, landed, loss
from chaos.load.impressions import ImpressionRow
from chaos.load.transactions import Purchase

IMPRESSIONS = [ImpressionRow(1, "men", n, f"position-{1 + n % 2}", n == 3, {}) for n in range(20)]
PURCHASES = [Purchase(1, "7", 1, "1997-01", 1, 500), Purchase(2, "7", 1, "1997-02", 1, 0)]
EXPECTED: Expected = expected(IMPRESSIONS, PURCHASES)
MONTHS = {"1997-01": Month(1, 500), "1997-02": Month(1, 0)}
BOOKS = Books(
    slots={"position-1": Traffic(10), "position-2": Traffic(10, 1, 1, 1)},
    campaigns={"men-1": Traffic(20, 1, 1, 1)},
    pages=2,
    repeats=0,
    dead_letters=0,
    doubled_rows=0,
    orders=MONTHS,
    captures=MONTHS,
    ledger_sums={"USD": 0},
    members=1,
)
EVIDENCE = Evidence(0, 0, 0, 2, 2, 0, 1, 16.0)


def failed(books: Books, evidence: Evidence = EVIDENCE) -> set[str]:
    return {check.name for check in judge(EXPECTED, books, evidence) if not check.ok}


def test_what_is_expected_comes_from_the_rows() -> None:
    assert EXPECTED.impressions == {"position-1": 10, "position-2": 10}
    assert EXPECTED.clicks == {"position-1": 0, "position-2": 1}
    assert (EXPECTED.pages, EXPECTED.members, EXPECTED.orders) == (2, 1, Month(2, 500))


def test_books_that_hold_the_files_rows_pass_every_check() -> None:
    checks = judge(EXPECTED, BOOKS, EVIDENCE)
    assert held(checks)
    assert landed(EXPECTED, BOOKS, 0)


def test_no_checks_are_no_proof() -> None:
    assert not held(())


@pytest.mark.parametrize(
    ("tampered", "noticed_by"),
    [
        ({"slots": {"position-1": Traffic(9), "position-2": Traffic(10, 1, 1, 1)}}, "events lost"),
        ({"slots": {"position-1": Traffic(11), "position-2": Traffic(10, 1, 1, 1)}}, "events duplicated"),
        ({"slots": {"position-1": Traffic(9), "position-2": Traffic(11, 1, 1, 1)}}, "impressions per slot"),
        ({"slots": {"position-1": Traffic(10), "position-2": Traffic(10)}}, "clicks per slot"),
        ({"slots": {"position-1": Traffic(10), "position-2": Traffic(10, 2, 1, 1, 1)}}, "clicks per slot"),
        ({"slots": {"position-1": Traffic(10), "position-2": Traffic(10, 1, 1, 0)}}, "net clicks per slot"),
        ({"campaigns": {}}, "slots and campaigns agree"),
        ({"pages": 1}, "content views"),
        ({"doubled_rows": 1}, "events duplicated"),
        ({"dead_letters": 1}, "dead letters"),
        ({"orders": {"1997-01": Month(1, 501), "1997-02": Month(1, 0)}}, "orders per month"),
        ({"orders": {"1997-01": Month(2, 500)}}, "orders per month"),
        ({"captures": {"1997-01": Month(1, 500)}}, "captures per month"),
        ({"captures": MONTHS | {"1997-03": Month(1, 1)}}, "captures per month"),
        ({"ledger_sums": {"USD": 0, "EUR": 1}}, "ledger sum"),
        ({"ledger_sums": {}}, "ledger sum"),
        ({"members": 2}, "members"),
    ],
)
def test_one_wrong_figure_fails_the_run(tampered: dict[str, object], noticed_by: str) -> None:
    assert noticed_by in failed(replace(BOOKS, **tampered))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("evidence", "noticed_by"),
    [
        ({"public_failures": 1}, "failed public requests"),
        ({"sensitive_failures": 1}, "failed orders, payments and registrations"),
        ({"edge_nodes_killed": 1}, "edge nodes killed"),
        ({"edge_nodes_not_back": 1}, "edge nodes that did not come back"),
        ({"kafka_outage_seconds": 14.9}, "seconds without Kafka"),
    ],
)
def test_one_failure_or_a_missing_fault_fails_the_run(evidence: dict[str, int], noticed_by: str) -> None:
    assert failed(BOOKS, replace(EVIDENCE, **evidence)) == {noticed_by}


def test_a_lost_and_a_doubled_event_do_not_cancel_out() -> None:
    books = replace(BOOKS, slots={"position-1": Traffic(9), "position-2": Traffic(11, 1, 1, 1)})
    counted = loss(EXPECTED, books, 0)
    assert (counted.lost, counted.duplicated) == (1, 1)


def test_what_was_there_before_the_run_does_not_count() -> None:
    before = replace(BOOKS, orders={"1997-01": Month(5, 900)}, captures={}, doubled_rows=0)
    after = replace(
        BOOKS,
        slots={"position-1": Traffic(20), "position-2": Traffic(20, 2, 2, 2)},
        campaigns={"men-1": Traffic(40, 2, 2, 2)},
        pages=4,
        orders={"1997-01": Month(6, 1400), "1997-02": Month(1, 0)},
        members=2,
    )
    assert held(judge(EXPECTED, after.since(before), EVIDENCE))


def test_a_doubled_row_from_before_the_run_still_fails_it() -> None:
    before = replace(BOOKS, doubled_rows=1)
    assert before.since(before).doubled_rows == 1
