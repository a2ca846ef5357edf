"""The outward bridge: one thread that relays the outbox, and a server that says that it lives."""

from mesh import telemetry
from mesh.clock import SystemClock
from mesh.process import Process
from mesh.server import health_server
from sync_bridge.outbound.gate import Gate
from sync_bridge.outbound.meters import Meters
from sync_bridge.outbound.relay import Relay
from sync_bridge.outbound.settings import OutboundSettings
from sync_bridge.worker import Worker


async def main(settings: OutboundSettings, process: Process) -> None:
    """Run until SIGTERM. Does not start on a contract that would let personal data out."""
    gate = Gate(process.contract)
    meters = Meters(telemetry.meter())
    clock = SystemClock()
    worker = Worker("bridge-outbound", process, settings, lambda: Relay(settings, gate, meters, clock))
    await process.serve(health_server(process), worker)
    if worker.failure is not None:
        raise worker.failure
