"""Money: whole minor units and a currency. Standard library only, so that any domain may use it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from private_core.refusals import Malformed

MINOR_MAX: Final = 2**63 - 1

# The codes of ISO 4217's list one that have a minor unit, as published by SIX on 2026-01-01, and XTS, which the
# standard reserves for testing.
CURRENCIES: Final = frozenset(
    """
    AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BHD BIF BMD BND BOB BOV BRL BSD BTN BWP BYN BZD CAD CDF CHE CHF
    CHW CLF CLP CNY COP COU CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD
    HKD HNL HTG HUF IDR ILS INR IQD IRR ISK JMD JOD JPY KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD
    MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MXV MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN
    PYG QAR RON RSD RUB RWF SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TND TOP TRY TTD
    TWD TZS UAH UGX USD USN UYI UYU UYW UZS VED VES VND VUV WST XAD XAF XCD XCG XOF XPF YER ZAR ZMW ZWG
    XTS
    """.split()  # noqa: SIM905 - codes in columns are easier to compare with the standard
)


@dataclass(frozen=True, slots=True)
class Money:
    """An amount that is owed or paid: never negative, in a known currency, small enough for 64 bits.

    Zero is an amount: some purchases cost nothing.
    """

    minor: int
    currency: str

    def __post_init__(self) -> None:
        if self.currency not in CURRENCIES:
            raise Malformed("CURRENCY_UNKNOWN", "the currency is not one of ISO 4217", "use a current code")
        if self.minor < 0:
            raise Malformed("AMOUNT_NEGATIVE", "an amount is negative", "send amounts of zero or more minor units")
        if self.minor > MINOR_MAX:
            raise Malformed("AMOUNT_OVERFLOW", "an amount does not fit into 64 bits", "split it")


def total(amounts: Iterable[Money]) -> Money:
    """The sum of at least one amount, all of one currency."""
    minor, currency = 0, ""
    for amount in amounts:
        if currency not in ("", amount.currency):
            raise Malformed(
                "CURRENCIES_MIXED", "the amounts are in more than one currency", "use one currency in one order"
            )
        minor, currency = minor + amount.minor, amount.currency
    return Money(minor, currency)
