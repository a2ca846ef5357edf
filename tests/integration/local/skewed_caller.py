"""Calls itself, and says how long the call had and what its clock shows, as JSON."""

import asyncio
import json
import time
from typing import Any

import grpc

GRANTED_S = 20


class Remaining(grpc.GenericRpcHandler):
    def service(self, details: grpc.HandlerCallDetails) -> Any:
        async def answer(request: bytes, context: Any) -> bytes:
            return str(context.time_remaining()).encode()

        return grpc.unary_unary_rpc_method_handler(answer)


async def main() -> None:
    server = grpc.aio.server(handlers=(Remaining(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        ask: Any = channel.unary_unary("/skewed.Caller/Ask")
        remaining = float(await ask(b"", timeout=GRANTED_S))
    await server.stop(0)
    print(json.dumps({"clock": time.time(), "remaining": remaining}))


if __name__ == "__main__":
    asyncio.run(main())
