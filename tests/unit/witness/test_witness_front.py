"""Whom the witness tells that it is there."""

from pathlib import Path

from mesh.control.probes import Outcome, over_https
from mesh.spiffe import SpiffeId
from mesh.tls import Identity
from security.witness.front import WitnessFront
from tests.ports import free_port
from tests.unit.mesh.conftest import Zone
from tests.unit.witness.test_witness import World

WITNESS = SpiffeId("public", "witness")
WITHIN_S = 30.0


async def test_the_control_plane_of_its_zone_may_ask_whether_it_is_there(tmp_path: Path) -> None:
    world = World(tmp_path)
    zone = Zone(tmp_path, "public")
    address = f"127.0.0.1:{free_port()}"
    caller = SpiffeId("private", "audit")
    front = WitnessFront(address, Identity(zone.issue("witness")), caller, world.witness)
    await front.start()
    try:
        for asker, found in (("control-public", Outcome.SERVING), ("edge", Outcome.FAILED)):
            async with over_https(address, Identity(zone.issue(asker)), WITNESS) as probe:
                assert await probe.ask(WITHIN_S) is found
    finally:
        await front.stop(1)
