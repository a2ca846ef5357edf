"""Services that a workload must serve and a test does not care for: there, and implemented by nobody."""

from importlib import import_module

from google.protobuf import descriptor_pool

from mesh.contract import Contract
from mesh.server import ServerBuilder


def serve_unimplemented(builder: ServerBuilder, contract: Contract, workload: str, *but: str) -> None:
    """Add every service of `workload` except those named in `but`, by full name."""
    for service in contract.of_workload(workload):
        if service.name in but:
            continue
        descriptor = descriptor_pool.Default().FindServiceByName(service.name)
        code = import_module(descriptor.file.name.removesuffix(".proto").replace("/", ".") + "_pb2_grpc")
        servicer = getattr(code, f"{descriptor.name}Servicer")()
        builder.add(getattr(code, f"add_{descriptor.name}Servicer_to_server"), servicer)
