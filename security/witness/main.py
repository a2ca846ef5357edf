"""Put the witness together."""

from mesh.clock import SystemClock
from mesh.process import Process
from mesh.spiffe import SpiffeId
from security.audit.cosignature import WITNESS_FILE, WITNESS_KEY, Cosigner
from security.witness.front import WitnessFront
from security.witness.settings import WitnessSettings
from security.witness.state import WitnessedLog
from security.witness.witness import Witness


async def main(settings: WitnessSettings, process: Process) -> None:
    cosigner = Cosigner.open_or_create(settings.home / WITNESS_KEY, f"{settings.trust_domain}/witness")
    log = WitnessedLog(settings.home / WITNESS_FILE, settings.log_key_path)
    log.load(cosigner.verifier)
    if settings.http_address is None:
        raise SystemExit("no address to serve on: set ISTHMUS_HTTP_ADDRESS")
    caller = SpiffeId("private", "audit", settings.trust_domain)
    front = WitnessFront(settings.http_address, process.identity, caller, Witness(log, cosigner, SystemClock()))
    await process.serve(None, front)
