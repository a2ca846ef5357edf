"""Who accounts for events must see each way in which they can go wrong."""

from collections import Counter

import pytest

from chaos.conservation import Account, account


@pytest.mark.parametrize(
    ("unknown", "rows", "found"),
    [
        (set(), [0, 1, 2, 3], (0, 0, 0, 0)),
        ({2, 3}, [0, 1, 3], (0, 0, 0, 1)),
        ({2, 3}, [0, 3], (1, 0, 0, 1)),
        (set(), [0, 1, 1, 1, 2, 3], (0, 2, 0, 0)),
        (set(), [0, 1, 2, 3, 4, -1], (0, 0, 2, 0)),
    ],
    ids=["all there", "recovered", "lost", "duplicated", "never sent"],
)
def test_every_outcome_is_told_from_the_others(
    unknown: set[int], rows: list[int], found: tuple[int, int, int, int]
) -> None:
    assert account(4, unknown, Counter(rows)) == found


def test_a_ledger_that_does_not_balance_is_a_failure() -> None:
    good = Account(1, 4, 4, 0, 0, 0, 0, 0, True, {}, 1.0)
    assert good.held
    assert not Account(1, 4, 4, 0, 0, 0, 0, 0, False, {}, 1.0).held
    assert not Account(1, 4, 4, 0, 1, 0, 0, 0, True, {}, 1.0).held
