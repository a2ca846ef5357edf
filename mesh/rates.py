"""How often a caller may call: token buckets by the contract's rate classes."""

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, Final

import grpc

from mesh.call import Claims, current_call
from mesh.contract.model import Contract, MethodPolicy, RateLimit
from mesh.errors import ResourceExhausted

# Callers that are remembered. The longest silent one is forgotten first; by then its bucket is full again or nearly so.
CALLERS_MAX: Final = 20_000

Behaviour = Callable[[Any, Any], Awaitable[Any]]


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
        tokens, since = self._buckets.get(caller, (float(self._limit.burst), now))
        tokens = min(self._limit.burst, tokens + (now - since) * self._limit.per_second)
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

    def take(self, method: MethodPolicy, claims: Claims | None, peer: str) -> None:
        """One call of a token's subject, or else of a peer. ResourceExhausted for one too many."""
        if claims is not None and claims.is_member:
            admitted = self._members[method.rate_class].take(claims.subject)
        else:
            admitted = self._systems[method.rate_class].take(claims.client_id if claims is not None else peer)
        if not admitted:
            raise ResourceExhausted(
                "RATE_EXCEEDED",
                f"this caller calls methods of the class {method.rate_class.name} too often",
                remedy="wait a second, then try again, slower",
                metadata={"rate_class": method.rate_class.name},
            )


class RateInterceptor(grpc.aio.ServerInterceptor):
    """Stands behind the token's check, where the subject is known: members draw from buckets of their own."""

    def __init__(self, contract: Contract, now: Callable[[], float] = time.monotonic) -> None:
        self._methods = contract.methods
        self._rates = CallerRates(contract, now)

    async def intercept_service(self, continuation: Any, details: grpc.HandlerCallDetails) -> Any:
        method = self._methods.get(details.method)
        handler = await continuation(details)
        if method is None or handler is None or handler.unary_unary is None:
            return handler
        return grpc.unary_unary_rpc_method_handler(
            self._limited(method, handler.unary_unary), handler.request_deserializer, handler.response_serializer
        )

    def _limited(self, method: MethodPolicy, handle: Behaviour) -> Behaviour:
        take = self._rates.take

        async def limited(request: Any, context: Any) -> Any:
            call = current_call()
            take(method, call.claims, str(call.peer))
            return await handle(request, context)

        return limited
