"""Calling on for a caller: its inner token is exchanged for one that this workload may present (RFC 8693)."""

import hashlib
from collections import OrderedDict
from typing import Final

from isthmus.gateway.v1 import gateway_pb2, gateway_pb2_grpc

from mesh.call import Call
from mesh.channel import Channels
from mesh.clock import Clock
from mesh.contract import MethodPolicy

TOKENS_MAX: Final = 10_000
# A token is used again while it lasts longer than any call.
LEFT_S_MIN: Final = 8


class Delegation:
    """mesh.channel.Delegate over gRPC. Bounded in memory; for the tasks of one loop."""

    def __init__(self, channels: Channels, clock: Clock) -> None:
        self._gateway: gateway_pb2_grpc.ExchangeAsyncStub = gateway_pb2_grpc.ExchangeStub(channels.open("gateway"))
        self._clock = clock
        # By the digest of the caller's token, whose own check comes first: a revoked one never gets here.
        self._made: OrderedDict[tuple[bytes, str], tuple[str, int]] = OrderedDict()

    async def __call__(self, call: Call, method: MethodPolicy) -> str:
        """The authorization for calling `method` within `call`. Raises mesh.errors types."""
        token = call.authorization.partition(" ")[2]
        name = (hashlib.sha256(token.encode()).digest(), method.path)
        known = self._made.get(name)
        if known is not None and known[1] - self._clock.now_us() // 1_000_000 >= LEFT_S_MIN:
            return known[0]
        answer = await self._gateway.ExchangeToken(
            gateway_pb2.ExchangeTokenRequest(subject_token=token, method=method.path)
        )
        authorization = f"Bearer {answer.token}"
        self._made[name] = (authorization, answer.expires)
        self._made.move_to_end(name)
        if len(self._made) > TOKENS_MAX:
            self._made.popitem(last=False)
        return authorization
