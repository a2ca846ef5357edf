"""How often a caller may call: token buckets by the contract's rate classes."""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final

from mesh.admission import Check
from mesh.call import Call, Claims
from mesh.contract.model import Contract, MethodPolicy, RateLimit
from mesh.errors import ResourceExhausted

# Callers that are remembered. The longest silent one is forgotten first; by then its bucket is full again or nearly so.
CALLERS_MAX: Final = 20_000


class Buckets:
    """One bucket for each caller, filled at a rate up to a burst."""

    def __init__(self, limit: RateLimit, now: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._now = now
        # Tokens left, and when that was so.
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, caller: str) -> bool:
        """Whether the caller may call once more now."""
        now = self._now()
        burst = tokens = float(self._limit.burst)
        known = self._buckets.get(caller)
        if known is not None:
            tokens = min(burst, known[0] + (now - known[1]) * self._limit.per_second)
        admitted = tokens >= 1
        self._buckets[caller] = (tokens - 1 if admitted else tokens, now)
        self._buckets.move_to_end(caller)
        if len(self._buckets) > CALLERS_MAX:
            self._buckets.popitem(last=False)
        return admitted


class CallerRates:
    """The buckets of all callers by the contract. Methods of one class share a caller's bucket."""

    def __init__(self, contract: Contract, now: Callable[[], float] = time.monotonic) -> None:
        self._members = {each: Buckets(rates.member, now) for each, rates in contract.rates.items()}
        self._systems = {each: Buckets(rates.system, now) for each, rates in contract.rates.items()}

    def of(self, method: MethodPolicy) -> Callable[[Claims | None, str], None]:
        """Takes one call of a token's subject, or else of a peer. ResourceExhausted for one too many."""
        rate_class = method.rate_class
        member, system = self._members[rate_class].take, self._systems[rate_class].take

        def take(claims: Claims | None, peer: str) -> None:
            if claims is None:
                admitted = system(peer)
            elif claims.is_member:
                admitted = member(claims.subject)
            else:
                admitted = system(claims.client_id)
            if not admitted:
                raise ResourceExhausted(
                    "RATE_EXCEEDED",
                    f"this caller calls methods of the class {rate_class.name} too often",
                    remedy="wait a second, then try again, slower",
                    metadata={"rate_class": rate_class.name},
                )

        return take


class Rates:
    """Asked behind the token's check, where the subject is known: members draw from buckets of their own."""

    def __init__(self, contract: Contract, now: Callable[[], float] = time.monotonic) -> None:
        self._rates = CallerRates(contract, now)

    def check(self, method: MethodPolicy) -> Check:
        take = self._rates.of(method)

        def check(call: Call, request: Any) -> None:
            take(call.claims, "" if call.peer is None else call.peer.uri)

        return check
