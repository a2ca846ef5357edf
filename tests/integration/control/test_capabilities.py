"""Each row of the capability table, shown against the real data plane, and refused before it is pushed."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deploy.local.settings import REPOSITORY
from mesh.contract import load
from mesh.control.capabilities import GRPC, Capability, Effect, refusals
from mesh.control.compile import GRPC as CLIENTS
from mesh.control.compile import configuration, gateway
from mesh.control.registry import Endpoint
from mesh.control.resources.view import View
from mesh.control.snapshot import CLUSTER, LISTENER, ROUTES
from mesh.control.validation import EnvoyValidator
from mesh.environment import GRPC as ENVIRONMENT
from tests.integration.conftest import TRUST_DOMAIN, Identities
from tests.integration.control.capability_probe import configuration as probed

CASES = [(each, value) for each in GRPC for value in sorted(each.values) or [""]]


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """What a real grpcio client did with each setting, by the row's name."""
    environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'mesh' / 'generated'}"}
    environment.pop("GRPC_XDS_BOOTSTRAP", None)
    command = (
        sys.executable,
        "-m",
        "tests.integration.control.capability_probe",
        str(tmp_path_factory.mktemp("probe")),
    )
    done = subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr.decode()
    found: dict[str, list[dict[str, Any]]] = {}
    for row in json.loads(done.stdout):
        found.setdefault(row["name"], []).append(row)
    return found


@pytest.mark.parametrize("capability", GRPC, ids=lambda each: each.name.replace(" ", "-"))
def test_grpc_does_what_the_table_says(capability: Capability, shown: dict[str, list[dict[str, Any]]]) -> None:
    for row in shown[capability.name]:
        assert row["shown"], row
        assert bool(row["nack"]) == (capability.effect is Effect.REFUSED), row


@pytest.mark.parametrize(("capability", "value"), CASES, ids=lambda each: str(getattr(each, "name", each))[-30:])
def test_it_is_refused_before_it_is_pushed(capability: Capability, value: str) -> None:
    (reason,) = refusals(probed(capability, value or "anything", "t"), GRPC)
    assert capability.remedy in reason


@pytest.fixture
def view(tmp_path: Path) -> View:
    places = (("edge", "http", "public"), ("edge-gateway", "https", "public"), ("core-gateway", "https", "private"))
    endpoints = tuple(Endpoint(workload, port, workload, zone, "127.0.0.1", 20000) for workload, port, zone in places)
    return View(TRUST_DOMAIN, "public", load(), endpoints, "https://issuer.test", "isthmus-core", tmp_path / "run")


@pytest.mark.parametrize("zone", ["public", "private"])
@pytest.mark.parametrize("group", ["gateway", CLIENTS])
def test_what_is_compiled_has_nothing_against_it(zone: str, group: str) -> None:
    view = View(TRUST_DOMAIN, zone, load(), (), "https://issuer.test", "isthmus-core", Path("/run"))
    source = configuration(view, gateway(zone) if group == "gateway" else group)
    assert refusals(source, GRPC if group == CLIENTS else ()) == []


def test_what_refers_to_nothing_is_refused(view: View) -> None:
    source = configuration(view, "edge-gateway")
    without_clusters = {**source, CLUSTER: {}}
    assert any(
        "leads to the cluster core-gateway, which is not there" in each for each in refusals(without_clusters, ())
    )
    assert any("routes edge are not there" in each for each in refusals({**source, ROUTES: {}}, ()))
    assert len(source[LISTENER]) == 1


async def test_envoy_itself_is_asked_before_a_gateway_is_told(view: View, tmp_path: Path) -> None:
    identity = Identities(tmp_path).issue("public", "control-public")
    validator = EnvoyValidator(tmp_path / "validation", identity)
    assert await validator.refusal(view, "edge-gateway") == ""
    broken = View(TRUST_DOMAIN, "public", load(), view.endpoints, "https://issuer.test", "isthmus-core", view.run)
    object.__setattr__(broken, "endpoints", tuple(_at_port(each, 99999) for each in view.endpoints))
    assert "port" in (await validator.refusal(broken, "edge-gateway")).lower()


def _at_port(endpoint: Endpoint, port: int) -> Endpoint:
    return Endpoint(endpoint.workload, endpoint.listen, endpoint.node, endpoint.zone, endpoint.address, port)
