"""Put the sandbox provider together."""

from isthmus.payments.v1 import sandbox_pb2_grpc

from mesh.process import Process
from mesh.server import ServerBuilder
from private_core.payments.sandbox.domain import Memory
from private_core.payments.sandbox.service import SandboxService
from private_core.payments.sandbox.settings import SandboxSettings


async def main(settings: SandboxSettings, process: Process) -> None:
    service = SandboxService(Memory(settings.sandbox_operations_max))
    server = ServerBuilder(process).add(sandbox_pb2_grpc.add_SandboxProviderServicer_to_server, service)
    await process.serve(server.build())
