"""Money is whole, never negative, of a known currency, and fits into 64 bits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from private_core.money import CURRENCIES, MINOR_MAX, Money, total
from private_core.refusals import Malformed


@given(st.lists(st.integers(0, MINOR_MAX), min_size=1, max_size=20))
def test_a_total_is_the_exact_sum_or_refused(amounts: tuple[int, ...]) -> None:
    if sum(amounts) <= MINOR_MAX:
        assert total(Money(minor, "CNY") for minor in amounts) == Money(sum(amounts), "CNY")
    else:
        with pytest.raises(Malformed, match="AMOUNT_OVERFLOW"):
            total(Money(minor, "CNY") for minor in amounts)


@pytest.mark.parametrize("currency", ["", "usd", "ZZZ", "XXX", "XAU", "US", "USDX"])
def test_what_is_no_currency_is_refused(currency: str) -> None:
    with pytest.raises(Malformed, match="CURRENCY_UNKNOWN"):
        Money(1, currency)


def test_a_negative_amount_is_refused() -> None:
    with pytest.raises(Malformed, match="AMOUNT_NEGATIVE"):
        Money(-1, "USD")


def test_currencies_do_not_mix() -> None:
    with pytest.raises(Malformed, match="CURRENCIES_MIXED"):
        total([Money(1, "USD"), Money(1, "EUR")])


def test_every_code_is_three_capitals() -> None:
    assert all(len(code) == 3 and code.isalpha() and code.isupper() for code in CURRENCIES)
    assert {"USD", "CNY", "EUR", "JPY", "KWD"} <= CURRENCIES
