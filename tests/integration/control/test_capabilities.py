"""Each row of the capability table, shown against the real data plane, and refused before it is pushed."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from deploy.local.settings import REPOSITORY
from mesh.contract import load
from mesh.control.capabilities import ENVOY, GRPC, Capability, Effect, refusals
from mesh.control.compile import GRPC as CLIENTS
from mesh.control.compile import configuration, gateway
from mesh.control.registry import Endpoint
from mesh.control.resources.view import View
from mesh.control.snapshot import CLUSTER, LISTENER, ROUTES
from mesh.control.validation import EnvoyValidator
from mesh.environment import GRPC as ENVIRONMENT
from tests.integration.conftest import TRUST_DOMAIN, Identities
from tests.integration.control import envoy_probe
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


def test_grpc_refuses_a_gap_in_the_priorities(shown: dict[str, list[dict[str, Any]]]) -> None:
    (row,) = shown["a gap in the priorities"]
    assert row["shown"]
    assert "priority" in row["nack"]


@pytest.mark.parametrize(("capability", "value"), CASES, ids=lambda each: str(getattr(each, "name", each))[-30:])
def test_it_is_refused_before_it_is_pushed(capability: Capability, value: str) -> None:
    (reason,) = refusals(probed(capability, value or "anything", "t"), GRPC)
    assert capability.remedy in reason


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def passed_over(tmp_path_factory: pytest.TempPathFactory) -> envoy_probe.Seen:
    """What a real Envoy did with each setting alone, and with what must stand beside it."""
    return await envoy_probe.probe(tmp_path_factory.mktemp("envoy"), ENVOY)


# What came back of six calls, and how often the upstream was asked: alone, and with what must stand beside it.
ENVOY_SHOWS = {
    "rate limit that is not enabled": (({200: 6}, 6), ({200: 1, 429: 5}, 1)),
    "rate limit that is not enforced": (({200: 6}, 6), ({200: 1, 429: 5}, 1)),
    "hedging without a limit for each try": (({200: 6}, 6), ({200: 6}, 12)),
    "retry on a word that is none": (({503: 6}, 6), ({503: 6}, 12)),
    "ejection after local errors": (({200: 3, 503: 3}, 3), ({200: 6}, 6)),
}


@pytest.mark.parametrize("capability", ENVOY, ids=lambda each: each.name.replace(" ", "-"))
@pytest.mark.asyncio(loop_scope="module")
async def test_envoy_does_what_the_table_says(capability: Capability, passed_over: envoy_probe.Seen) -> None:
    alone, beside = ENVOY_SHOWS[capability.name]
    seen = passed_over[capability.name]
    assert (dict(seen[False][0]), seen[False][1]) == alone
    assert (dict(seen[True][0]), seen[True][1]) == beside


@pytest.mark.parametrize("capability", ENVOY, ids=lambda each: each.name.replace(" ", "-"))
def test_what_envoy_would_pass_over_is_refused_before_it_is_pushed(capability: Capability) -> None:
    for right in (False, True):
        source = {LISTENER: {}, **envoy_probe.configuration(capability, right=right)}
        reasons = refusals(source, ENVOY)
        assert any(capability.remedy in reason for reason in reasons) is not right, reasons


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
    assert refusals(source, GRPC if group == CLIENTS else ENVOY) == []


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
