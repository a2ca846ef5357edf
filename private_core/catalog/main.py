"""Put the catalog process together."""

from isthmus.catalog.v1 import catalog_pb2_grpc

from mesh.clock import SystemClock
from mesh.database.engine import async_engine
from mesh.database.migrate import Owner, require_current
from mesh.process import Process
from mesh.server import ServerBuilder
from private_core.catalog.service import CatalogService
from private_core.catalog.settings import CatalogSettings
from private_core.catalog.store import CatalogStore
from security.audit.postgres import PostgresAuditSink
from security.audit.recorder import CallRecorder
from security.tokens.remote import TokenCheck


async def main(settings: CatalogSettings, process: Process) -> None:
    clock = SystemClock()
    engine = async_engine(settings.database_url, settings.node, pool_size=settings.database_pool_size)
    await require_current(engine, Owner.beside(__file__))
    service = CatalogService(CatalogStore(engine, process.contract))

    tokens = TokenCheck(settings, process.channels, process.contract)
    sink = PostgresAuditSink(async_engine(settings.database_url, f"{settings.node}-audit", pool_size=1))
    audit = CallRecorder(sink, settings, clock)

    server = ServerBuilder(process, tokens=tokens.rule, audit=audit)
    server.add(catalog_pb2_grpc.add_CatalogServicer_to_server, service)
    await process.serve(server.build(), sink, tokens)
    await engine.dispose()
