"""How the sandbox decides, what it remembers, and how it misbehaves when it is asked to."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from private_core.money import Money
from private_core.payments.sandbox.journal import Entry, Journal
from private_core.refusals import Duplicate

# ISO 4217 reserves it for testing, so no real purchase is ever declined or disturbed.
TEST_CURRENCY: Final = "XTS"


class Behaviour(StrEnum):
    """What an amount in the currency for testing brings about."""

    DECLINE = "decline"
    # Done, and answered after a while.
    SLOW = "slow"
    # Done, and not answered the first time.
    SILENT = "silent"
    # Done, and never told of by a notification.
    UNTOLD = "untold"
    # Done, and in the statement with another amount, or not at all.
    MISSTATED = "misstated"
    UNSTATED = "unstated"


# By minor units. Every other amount in XTS is declined.
BEHAVIOURS: Final = {
    2: Behaviour.SLOW,
    3: Behaviour.SILENT,
    4: Behaviour.UNTOLD,
    5: Behaviour.MISSTATED,
    6: Behaviour.UNSTATED,
}


def behaviour(amount: Money) -> Behaviour | None:
    """None: as it should be."""
    return BEHAVIOURS.get(amount.minor, Behaviour.DECLINE) if amount.currency == TEST_CURRENCY else None


@dataclass(frozen=True, slots=True)
class Asked:
    """kind: hold, take, release or return. reference: the merchant's id of the payment."""

    kind: str
    reference: str
    amount: Money


class Memory:
    """Operations by idempotency key: the same key gives the same decision, and counts once."""

    def __init__(self, operations_max: int, journal: Journal, now_us: Callable[[], int]) -> None:
        self._operations: OrderedDict[str, Entry] = OrderedDict()
        self._operations_max = operations_max
        self._journal = journal
        self._now_us = now_us
        for entry in journal.newest(operations_max):
            self._operations[entry.key] = entry

    def __len__(self) -> int:
        return len(self._operations)

    def decide(self, key: str, asked: Asked) -> tuple[Entry, bool]:
        """The operation, and whether it is new. Raises Duplicate when the key was used for something else."""
        known = self._operations.get(key)
        if known is not None:
            if Asked(known.kind, known.reference, known.amount) != asked:
                raise Duplicate("IDEMPOTENCY_KEY_REUSED", "this key names another operation", "choose a new key")
            return known, False
        # Made of the key, so that it is the same even when the operation was forgotten.
        provider_id = f"sandbox-{hashlib.sha256(key.encode()).hexdigest()[:24]}"
        reason = "do not honour" if behaviour(asked.amount) is Behaviour.DECLINE else ""
        minor, currency = asked.amount.minor, asked.amount.currency
        entry = Entry(key, asked.kind, asked.reference, minor, currency, provider_id, reason, self._now_us())
        self._journal.append(entry)
        self._operations[key] = entry
        if len(self._operations) > self._operations_max:
            self._operations.popitem(last=False)
        return entry, True


def stated(entry: Entry) -> Entry | None:
    """The entry as the statement shows it; None where it is left out."""
    match behaviour(entry.amount):
        case Behaviour.UNSTATED:
            return None
        case Behaviour.MISSTATED:
            return Entry(
                entry.key,
                entry.kind,
                entry.reference,
                entry.minor + 1,
                entry.currency,
                entry.provider_id,
                entry.decline_reason,
                entry.time_us,
            )
        case _:
            return entry
