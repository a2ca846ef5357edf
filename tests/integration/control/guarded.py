"""The stand-in for orders behind the real token check; the gateway's key lies in jwk.json of the home."""

from isthmus.orders.v1 import orders_pb2_grpc

from mesh.clock import SystemClock
from mesh.process import Process, start
from mesh.server import ServerBuilder
from mesh.settings import ProcessSettings
from security.tokens.keys import PublishedKeys
from security.tokens.remote import inner_verifier
from security.tokens.rule import TokenRule
from tests.integration.control.upstream import ORDERS, Orders
from tests.stand_in import Forgetful, serve_unimplemented


async def main(settings: ProcessSettings, process: Process) -> None:
    async def jwks(sought: str) -> list[str]:
        return [(settings.home / "jwk.json").read_text()]

    clock = SystemClock()
    keys = PublishedKeys(jwks, clock)
    verifier = inner_verifier(settings, keys, None, settings.workload)
    builder = ServerBuilder(process, tokens=TokenRule(verifier, clock), audit=Forgetful())
    builder.add(orders_pb2_grpc.add_OrdersServicer_to_server, Orders(settings.node))  # type: ignore[abstract]
    serve_unimplemented(builder, process.contract, settings.workload, ORDERS)
    await process.serve(builder.build(), keys)


if __name__ == "__main__":
    start(main, ProcessSettings)
