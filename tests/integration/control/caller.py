"""A workload that calls orders by xds:/// all the time and notes who answered, in a process of its own."""

import asyncio
import contextlib
from typing import Any

from isthmus.orders.v1 import orders_pb2, orders_pb2_grpc

from mesh.errors import MeshError
from mesh.process import Process, start
from mesh.server import ServerBuilder
from mesh.settings import ProcessSettings
from tests.stand_in import AnyToken, Forgetful, serve_unimplemented

_BETWEEN_S = 0.05


class Calls:
    """Writes the name of the node that answered into run/<node>/answers."""

    def __init__(self, settings: ProcessSettings, process: Process) -> None:
        self._notes = settings.home / "run" / settings.node / "answers"
        self._stub: Any = orders_pb2_grpc.OrdersStub(process.channels.open("orders"))
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._call(), name="calls")

    async def stop(self, grace_s: float) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _call(self) -> None:
        while True:
            with contextlib.suppress(MeshError):
                answer = await self._stub.GetOrder(orders_pb2.GetOrderRequest(order_id="a"))
                with self._notes.open("a") as notes:
                    print(answer.order.member_id, file=notes)
            await asyncio.sleep(_BETWEEN_S)


async def main(settings: ProcessSettings, process: Process) -> None:
    calls, server = Calls(settings, process), None
    if settings.grpc_address:
        builder = ServerBuilder(process, tokens=AnyToken(), audit=Forgetful())
        serve_unimplemented(builder, process.contract, settings.workload)
        server = builder.build()
    await process.serve(server, calls)


if __name__ == "__main__":
    start(main, ProcessSettings)
