"""Put the sandbox provider together."""

from isthmus.payments.v1 import sandbox_pb2_grpc

from mesh.clock import SystemClock
from mesh.process import Process
from mesh.rounds import Rounds
from mesh.server import ServerBuilder
from private_core.payments.sandbox.domain import Memory
from private_core.payments.sandbox.journal import Journal
from private_core.payments.sandbox.notifier import INTERVAL_S, Notifier
from private_core.payments.sandbox.service import SandboxService
from private_core.payments.sandbox.settings import SandboxSettings


async def main(settings: SandboxSettings, process: Process) -> None:
    journal = Journal(settings.home / "data" / "sandbox-provider")
    memory = Memory(settings.sandbox_operations_max, journal, SystemClock().now_us)
    notifier = Notifier(process.channels.open("payments"))
    service = SandboxService(memory, journal, notifier)
    server = ServerBuilder(process).add(sandbox_pb2_grpc.add_SandboxProviderServicer_to_server, service)
    await process.serve(server.build(), Rounds("notifier", notifier.round, INTERVAL_S))
