"""What is laid over the contract is listed also where a control plane is silent, and the silent one is named."""

import json
import time
from pathlib import Path

import pytest
from isthmus.control.v1 import control_pb2_grpc
from typer.testing import CliRunner

from deploy.cli import override
from deploy.local import overriding
from deploy.local.settings import Home
from mesh.control.history import History
from mesh.control.overrides import Fault
from mesh.control.service import ControlService
from mesh.control.status import Planes
from mesh.server import ServerBuilder
from tests.ports import free_port
from tests.unit.control.test_control_service import DECIDE, RECORD, Plan
from tests.unit.local.conftest import control_planes
from tests.unit.mesh.conftest import Zone


async def test_a_silent_control_plane_hides_nothing_of_what_the_other_says(
    tmp_path: Path, zones: dict[str, Zone]
) -> None:
    control = zones["public"].join("control-public")
    assert control.settings.grpc_address is not None
    control_planes(tmp_path, {"public": int(control.settings.grpc_address.split(":")[1]), "private": free_port()})
    plan = Plan(tmp_path)
    plan.overrides.lay(Fault(DECIDE, 30, time.time() + 60, 0, "UNAVAILABLE", RECORD))
    service = ControlService(Planes(), History(), plan)
    server = ServerBuilder(control).add(control_pb2_grpc.add_ControlServicer_to_server, service).build()
    await server.start()
    try:
        rows, silent = await overriding.listed(Home(tmp_path))
    finally:
        await server.stop(0)
    assert [(row["zone"], row["on"], row["percent"]) for row in rows] == [("public", DECIDE, 30)]
    assert list(silent) == ["control-private"]


def test_a_list_that_is_not_whole_says_so_and_fails(
    tmp_path: Path, zones: dict[str, Zone], monkeypatch: pytest.MonkeyPatch
) -> None:
    control_planes(tmp_path, {zone: free_port() for zone in zones})
    monkeypatch.setenv("ISTHMUS_HOME", str(tmp_path))
    done = CliRunner().invoke(override.app, ["list", "--json"])
    assert done.exit_code == 1
    assert json.loads(done.stdout) == []
    assert "control-public does not answer" in done.stderr
    assert "control-private does not answer" in done.stderr
