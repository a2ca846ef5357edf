"""What this process' own `xds:///` channels have applied, told over CSDS (envoy.service.status.v3)."""

from typing import Any, Final

import grpc

SERVICE: Final = "envoy.service.status.v3.ClientStatusDiscoveryService"
METHOD: Final = f"/{SERVICE}/FetchClientStatus"


def applied() -> bytes:
    """A serialized ClientStatusResponse: the types take long to load, in many processes that are seldom asked."""
    from grpc_csds import ClientStatusDiscoveryServiceServicer

    answer: bytes = ClientStatusDiscoveryServiceServicer.FetchClientStatus(None, None).SerializeToString()
    return answer


async def fetch(request: bytes, context: Any) -> bytes:
    return applied()


def add(_: object, server: Any) -> None:
    """In the form of a generated adder."""
    server.add_registered_method_handlers(SERVICE, {"FetchClientStatus": grpc.unary_unary_rpc_method_handler(fetch)})
