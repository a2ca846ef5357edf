"""Put the audit process together."""

from isthmus.audit.v1 import audit_pb2_grpc

from mesh.database.engine import async_engine
from mesh.process import Process
from mesh.server import ServerBuilder
from security.audit.interceptor import AuditInterceptor
from security.audit.postgres import PostgresAuditSink
from security.audit.service import AuditLogService
from security.audit.settings import AuditSettings
from security.audit.store import AuditStore


async def main(settings: AuditSettings, process: Process) -> None:
    engine = async_engine(settings.database_url, settings.node, pool_size=settings.database_pool_size)
    sink = PostgresAuditSink(async_engine(settings.database_url, f"{settings.node}-audit", pool_size=1))
    server = ServerBuilder(process, audit=AuditInterceptor(process.contract, sink, settings))
    server.add(audit_pb2_grpc.add_AuditLogServicer_to_server, AuditLogService(AuditStore(engine)))
    await process.serve(server.build(), sink)
    await engine.dispose()
