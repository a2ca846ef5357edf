"""The inward bridge: one thread that lands records, and a server that says that it lives."""

from mesh import telemetry
from mesh.clock import SystemClock
from mesh.process import Process
from mesh.server import health_server
from sync_bridge.inbound.decoder import Decoder
from sync_bridge.inbound.meters import Meters
from sync_bridge.inbound.session import Session
from sync_bridge.inbound.settings import InboundSettings
from sync_bridge.inbound.tables import by_topic
from sync_bridge.worker import Worker


async def main(settings: InboundSettings, process: Process) -> None:
    """Run until SIGTERM, or until records are found to be lost."""
    clock = SystemClock()
    tables = by_topic(process.contract)
    meters = Meters(telemetry.meter(), clock)
    decoder = Decoder(tables)
    worker = Worker("bridge-inbound", process, settings, lambda: Session(settings, tables, decoder, meters, clock))
    await process.serve(health_server(process), worker)
    if worker.failure is not None:
        raise worker.failure
