"""Put the sandbox provider together."""

from isthmus.payments.v1 import sandbox_pb2_grpc

from mesh.clock import SystemClock
from mesh.database.engine import async_engine
from mesh.process import Process
from mesh.server import ServerBuilder
from private_core.payments.sandbox.domain import Memory
from private_core.payments.sandbox.service import SandboxService
from private_core.payments.sandbox.settings import SandboxSettings
from security.audit.interceptor import AuditInterceptor
from security.audit.postgres import PostgresAuditSink


async def main(settings: SandboxSettings, process: Process) -> None:
    sink = PostgresAuditSink(async_engine(settings.database_url, f"{settings.node}-audit", pool_size=1))
    audit = AuditInterceptor(process.contract, sink, settings, SystemClock())
    server = ServerBuilder(process, audit=audit)
    server.add(
        sandbox_pb2_grpc.add_SandboxProviderServicer_to_server, SandboxService(Memory(settings.sandbox_operations_max))
    )
    await process.serve(server.build(), sink)
