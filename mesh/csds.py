"""What this process' own `xds:///` channels have applied, told over CSDS (envoy.service.status.v3)."""

from typing import Any, Final

import grpc

SERVICE: Final = "envoy.service.status.v3.ClientStatusDiscoveryService"
METHOD: Final = f"/{SERVICE}/FetchClientStatus"


async def fetch(request: bytes, context: Any) -> bytes:
    """Takes and returns serialized messages: their types take long to load, in many processes that are seldom asked."""
    from grpc_csds import ClientStatusDiscoveryServiceServicer

    answer: bytes = ClientStatusDiscoveryServiceServicer.FetchClientStatus(None, context).SerializeToString()
    return answer


def add(_: object, server: Any) -> None:
    """In the form of a generated adder."""
    server.add_registered_method_handlers(SERVICE, {"FetchClientStatus": grpc.unary_unary_rpc_method_handler(fetch)})
