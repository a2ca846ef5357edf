"""Put the warehouse process together."""

from isthmus.warehouse.v1 import warehouse_pb2_grpc

from mesh.clock import SystemClock
from mesh.database.engine import async_engine
from mesh.database.migrate import Owner, require_current
from mesh.process import Process
from mesh.rounds import Rounds
from mesh.server import ServerBuilder
from private_core.warehouse.intake import INTERVAL_S, Intake, expiries
from private_core.warehouse.service import WarehouseService
from private_core.warehouse.settings import WarehouseSettings
from private_core.warehouse.store import WarehouseStore
from security.audit.postgres import PostgresAuditSink
from security.audit.recorder import CallRecorder
from security.audit.removal import Remover


async def main(settings: WarehouseSettings, process: Process) -> None:
    clock = SystemClock()
    engine = async_engine(
        settings.database_url,
        settings.node,
        pool_size=settings.database_pool_size,
        statement_timeout_ms=settings.warehouse_statement_ms_max,
    )
    await require_current(engine, Owner.beside(__file__))

    sink = PostgresAuditSink(async_engine(settings.database_url, f"{settings.node}-audit", pool_size=1))
    audit = CallRecorder(sink, settings, clock)

    server = ServerBuilder(process, audit=audit)
    server.add(warehouse_pb2_grpc.add_WarehouseServicer_to_server, WarehouseService(WarehouseStore(engine)))
    intake = Rounds("intake", Intake(engine, process.contract).round, INTERVAL_S)
    past = [each.rounds() for each in expiries(engine, process.contract, Remover(settings, clock))]
    await process.serve(server.build(), sink, intake, *past)
    await engine.dispose()
