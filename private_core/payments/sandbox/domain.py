"""How the sandbox decides, and what it remembers."""

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from private_core.money import Money
from private_core.refusals import Duplicate

# ISO 4217 reserves it for testing, so no real purchase is ever declined.
DECLINED_CURRENCY: Final = "XTS"


@dataclass(frozen=True, slots=True)
class Asked:
    """kind: hold, take or return. reference: the merchant's id of the payment."""

    kind: str
    reference: str
    amount: Money


@dataclass(frozen=True, slots=True)
class Decision:
    """decline_reason: empty when approved."""

    provider_id: str
    decline_reason: str

    @property
    def approved(self) -> bool:
        return not self.decline_reason


class Memory:
    """Operations by idempotency key: the same key gives the same decision, and counts once."""

    def __init__(self, operations_max: int) -> None:
        self._operations: OrderedDict[str, tuple[Asked, Decision]] = OrderedDict()
        self._operations_max = operations_max

    def __len__(self) -> int:
        return len(self._operations)

    def decide(self, key: str, asked: Asked) -> Decision:
        """Raises Duplicate when the key was used for something else."""
        known = self._operations.get(key)
        if known is not None:
            if known[0] != asked:
                raise Duplicate("IDEMPOTENCY_KEY_REUSED", "this key names another operation", "choose a new key")
            return known[1]
        # Made of the key, so that it is the same even after the sandbox started anew and forgot.
        provider_id = f"sandbox-{hashlib.sha256(key.encode()).hexdigest()[:24]}"
        reason = "do not honour" if asked.amount.currency == DECLINED_CURRENCY else ""
        decision = Decision(provider_id, reason)
        self._operations[key] = (asked, decision)
        if len(self._operations) > self._operations_max:
            self._operations.popitem(last=False)
        return decision
