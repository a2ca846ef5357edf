"""The inward bridge: one thread that lands records, and a server for those who operate it."""

import gc
import sys
from typing import Final

from isthmus.bridge.v1 import bridge_pb2_grpc

from mesh import telemetry
from mesh.clock import SystemClock
from mesh.database.engine import async_engine
from mesh.process import Process
from mesh.server import ServerBuilder
from security.audit.postgres import PostgresAuditSink
from security.audit.recorder import CallRecorder
from security.audit.removal import Remover
from sync_bridge.inbound.decoder import Decoder
from sync_bridge.inbound.meters import Meters
from sync_bridge.inbound.retention import Retention, kept
from sync_bridge.inbound.service import BridgeService
from sync_bridge.inbound.session import Session
from sync_bridge.inbound.settings import InboundSettings
from sync_bridge.inbound.tables import by_topic
from sync_bridge.kafka import libpq_url
from sync_bridge.worker import Worker

# The thread that lands needs the interpreter for each block that the database's socket has room for. By default it
# would wait 5 ms each time for the thread that decodes.
SWITCH_INTERVAL_S: Final = 0.0001
# A batch is a hundred thousand small objects, none of them in a cycle: looking for cycles after every 700 new ones, as
# is the default, takes a third of the decoder's time.
COLLECT_AFTER: Final = 200_000


async def main(settings: InboundSettings, process: Process) -> None:
    """Run until SIGTERM, or until records are found to be lost."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.set_threshold(COLLECT_AFTER)
    clock = SystemClock()
    tables = by_topic(process.contract)
    meters = Meters(telemetry.meter(), clock)
    decoder = Decoder(tables)

    sink = PostgresAuditSink(async_engine(settings.database_url, f"{settings.node}-audit", pool_size=1))
    server = ServerBuilder(process, audit=CallRecorder(sink, settings, clock))
    server.add(bridge_pb2_grpc.add_BridgeServicer_to_server, BridgeService(settings, tables, decoder, meters))

    worker = Worker("bridge-inbound", process, settings, lambda: Session(settings, tables, decoder, meters, clock))
    wanted = kept(process.contract, tables)
    # What is there by now stays, and need not be looked through again.
    gc.freeze()
    retention = Retention(libpq_url(settings.database_url), wanted, Remover(settings, clock))
    await process.serve(server.build(), sink, retention, worker)
    if worker.failure is not None:
        raise worker.failure
