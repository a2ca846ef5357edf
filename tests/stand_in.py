"""What a server must have and a test does not care for: services that nobody implements, checks that let all pass."""

from importlib import import_module
from typing import Any

from google.protobuf import descriptor_pool

from mesh.admission import Check
from mesh.call import Call
from mesh.contract import Contract, MethodPolicy
from mesh.server import ServerBuilder


class AnyToken:
    """A check of tokens that asks for none."""

    def check(self, method: MethodPolicy) -> Check:
        def check(call: Call, request: Any) -> None:
            """Whoever the guard let in may pass."""

        return check


class Forgetful:
    """An audit log that takes every record and keeps none."""

    def records(self, method: MethodPolicy) -> "Forgetful":
        return self

    def begin(self, call: Call, request: Any) -> None: ...
    def answered(self, record: Any) -> None: ...
    def failed(self, record: Any, error: BaseException) -> None: ...


def serve_unimplemented(builder: ServerBuilder, contract: Contract, workload: str, *but: str) -> None:
    """Add every service of `workload` except those named in `but`, by full name."""
    for service in contract.of_workload(workload):
        if service.name in but:
            continue
        descriptor = descriptor_pool.Default().FindServiceByName(service.name)
        code = import_module(descriptor.file.name.removesuffix(".proto").replace("/", ".") + "_pb2_grpc")
        servicer = getattr(code, f"{descriptor.name}Servicer")()
        builder.add(getattr(code, f"add_{descriptor.name}Servicer_to_server"), servicer)
