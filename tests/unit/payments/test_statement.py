"""Each way in which a provider's word can differ from the books has its own name."""

from dataclasses import replace

import pytest

from private_core.payments.domain import Kind, Progress
from private_core.payments.statement import Act, Entry, Line, Name, compare

LINE = Line("op-1", Act.TAKE, "payment-1", 2933, "USD", True, "p-1")
ENTRY = Entry("op-1", Kind.CAPTURE, Progress.DONE, "payment-1", 2933, "USD", 2933)


def names(line: Line, entry: Entry | None) -> list[Name]:
    return [one.name for one in compare(line, entry)]


def test_what_is_alike_does_not_differ() -> None:
    assert names(LINE, ENTRY) == []
    assert names(replace(LINE, approved=False), replace(ENTRY, progress=Progress.DECLINED, posted_minor=None)) == []


@pytest.mark.parametrize(
    ("line", "entry", "expected"),
    [
        (LINE, None, [Name.UNKNOWN_HERE]),
        (replace(LINE, act=Act.HOLD), ENTRY, [Name.ACT_DIFFERS]),
        (replace(LINE, reference="payment-2"), ENTRY, [Name.PAYMENT_DIFFERS]),
        (replace(LINE, minor=2934), ENTRY, [Name.AMOUNT_DIFFERS]),
        (replace(LINE, currency="EUR"), ENTRY, [Name.CURRENCY_DIFFERS]),
        (replace(LINE, approved=False), ENTRY, [Name.OUTCOME_DIFFERS]),
        (LINE, replace(ENTRY, progress=Progress.DECLINED, posted_minor=None), [Name.OUTCOME_DIFFERS]),
        (LINE, replace(ENTRY, progress=Progress.OPEN, posted_minor=None), [Name.OPEN_HERE]),
        (LINE, replace(ENTRY, posted_minor=None), [Name.POSTING_DIFFERS]),
        (LINE, replace(ENTRY, posted_minor=1), [Name.POSTING_DIFFERS]),
        (replace(LINE, minor=1, currency="EUR"), ENTRY, [Name.AMOUNT_DIFFERS, Name.CURRENCY_DIFFERS]),
    ],
)
def test_every_difference_is_named(line: Line, entry: Entry | None, expected: list[Name]) -> None:
    assert names(line, entry) == expected
