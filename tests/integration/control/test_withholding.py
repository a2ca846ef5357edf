"""What must not be pushed is offered to nobody: a real planner, compiling the real contract, before a real Envoy."""

import sysconfig
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import mesh.process
from deploy.local.topology import Listen, Process, Topology, write
from mesh.contract import load
from mesh.control import validation
from mesh.control.cache import SnapshotCache
from mesh.control.compile import GRPC, gateway
from mesh.control.history import Change, Fate, History
from mesh.control.main import Planner
from mesh.control.overrides import Fault
from mesh.control.registry import Registry
from mesh.control.resources import clusters, routes
from mesh.control.settings import ControlSettings
from mesh.control.snapshot import CONFIGURATION, Snapshot
from mesh.control.validation import EnvoyValidator, ValidatorMissing
from mesh.tls import Identity
from tests.integration.conftest import TRUST_DOMAIN, Identities
from tests.integration.control.world import eventually
from tests.ports import free_port
from tests.unit.control.test_ads_bounds import said

EDGE = gateway("public")
SPOILT: dict[str, tuple[Any, str, dict[str, Any], str]] = {
    GRPC: (clusters, "grpc", {"lb_policy": "LEAST_REQUEST"}, "ROUND_ROBIN or RING_HASH"),
    EDGE: (clusters, "http", {"outlier_detection": {"consecutive_local_origin_failure": 2}}, "state split_external"),
}


class ControlPlane:
    """The planner of the public zone, from one start to the next, without the streams that it feeds."""

    def __init__(self, home: Path) -> None:
        self._topology = home / "topology.json"
        self.settings = ControlSettings(
            home=home,
            zone="public",
            workload="control-public",
            node="control-public",
            identity_dir=Identities(home).issue("public", "control-public"),
            probe_timeout_s=0.1,
            topology_look_s=0.1,
        )
        self.port = free_port()
        self.gateway_listens_at(self.port)

    def gateway_listens_at(self, port: int, *nodes: str) -> None:
        """Publish a table of processes: the gateway, and nodes of edge."""
        rows = [Process(EDGE, "public", EDGE, EDGE, None, (Listen("https", "127.0.0.1", port, "https"),))]
        for node in nodes:
            listens = tuple(Listen(name, "127.0.0.1", free_port(), name) for name in ("http", "grpc"))
            rows.append(Process(node, "public", "edge", node, None, listens))
        write(self._topology, Topology(TRUST_DOMAIN, tuple(rows)))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Planner]:
        self.cache = SnapshotCache(history=History(self.settings.state_path / "configurations"))
        registry = Registry(self._topology, "public", self.settings.topology_look_s)
        process = mesh.process.Process(self.settings, Identity(self.settings.identity_dir), load())
        planner = Planner(self.settings, process, registry, self.cache)
        try:
            await planner.start()
            yield planner
        finally:
            await planner.stop(0)

    def offered(self, group: str) -> Snapshot:
        found = self.cache.get(group)
        assert found is not None
        return found

    def taken(self, group: str) -> Snapshot:
        """What is offered, once its data planes have acknowledged all of it."""
        now = self.offered(group)
        for kind in CONFIGURATION:
            self.cache.acknowledge(group, kind, now.versions[kind])
        return now

    def newest(self, group: str) -> Change:
        found = self.cache.history.newest(group)
        assert found is not None
        return found

    async def withheld(self, group: str) -> Change:
        async def holds() -> bool:
            return self.newest(group).fate is Fate.WITHHELD

        await eventually(holds, f"the newest of {group} is withheld; {self.cache.history.changes}")
        return self.newest(group)


@pytest.fixture
def control(tmp_path: Path) -> ControlPlane:
    return ControlPlane(tmp_path)


def spoil(patch: pytest.MonkeyPatch, module: Any, builder: str, fields: dict[str, Any]) -> None:
    """As if somebody had written other fields into what is compiled from now on."""
    build: Callable[..., dict[str, Any]] = getattr(module, builder)
    patch.setattr(module, builder, lambda *about, **more: {**build(*about, **more), **fields})


def judged_by(patch: pytest.MonkeyPatch, home: Path, script: str) -> None:
    """Have a program of the test stand in for Envoy."""
    program = home / "judge"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o700)
    patch.setattr(
        "mesh.control.main.EnvoyValidator", lambda directory, identity: EnvoyValidator(directory, identity, program)
    )


def compile_anew(planner: Planner) -> None:
    """A fault is part of the configuration of gateways and of clients."""
    method, expires = "/isthmus.ads.v1.Ads/Decide", time.time() + 600
    planner.overrides.lay(Fault(method, percent=1, expires=expires, abort="UNAVAILABLE"))


@pytest.mark.parametrize("group", [GRPC, EDGE])
async def test_what_the_table_of_capabilities_refuses_is_offered_to_nobody_and_stays_so_after_a_restart(
    control: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: str
) -> None:
    judged_by(monkeypatch, tmp_path, "exit 0")
    module, builder, fields, remedy = SPOILT[group]
    async with control.running() as planner:
        before = control.taken(group)
        spoil(monkeypatch, module, builder, fields)
        compile_anew(planner)
        refused = await control.withheld(group)
        assert remedy in refused.reason
        assert control.cache.history.source(group, refused.configuration)
        assert control.offered(group).same_configuration(before)

        # Endpoints go on, and what was withheld is not covered up by what stays instead.
        control.gateway_listens_at(control.port, "edge-1")

        async def followed() -> bool:
            return control.offered(group).versions != before.versions

        await eventually(followed, "the new endpoint is told")
        assert control.offered(group).same_configuration(before)
        assert (control.newest(group), refused.fate) == (refused, Fate.WITHHELD)
    async with control.running():
        assert control.offered(group).same_configuration(before)
        assert control.newest(group).configuration == refused.configuration
        assert control.newest(group).fate is Fate.WITHHELD


async def test_what_envoy_refuses_is_offered_to_nobody(control: ControlPlane) -> None:
    async with control.running():
        before = control.taken(EDGE)
        control.gateway_listens_at(99999)
        assert "port" in (await control.withheld(EDGE)).reason.lower()
        assert control.offered(EDGE).same_configuration(before)


async def test_what_does_not_fit_the_schema_is_offered_to_nobody(
    control: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged_by(monkeypatch, tmp_path, "exit 0")
    async with control.running() as planner:
        before = control.taken(EDGE)
        spoil(monkeypatch, routes, "edge", {"no_such_field": 1})
        compile_anew(planner)
        assert "no_such_field" in (await control.withheld(EDGE)).reason
        assert control.offered(EDGE).same_configuration(before)


async def test_a_group_that_never_had_a_good_one_is_told_nothing(
    control: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged_by(monkeypatch, tmp_path, "exit 0")
    spoil(monkeypatch, routes, "edge", {"no_such_field": 1})
    async with control.running():
        assert control.newest(EDGE).fate is Fate.WITHHELD
        assert control.cache.get(EDGE) is None
        assert control.cache.get(GRPC) is not None


async def test_what_was_withheld_for_a_passing_reason_is_offered_when_it_is_tried_again(
    control: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = tmp_path / "full"
    judged_by(monkeypatch, tmp_path, f"if [ -e {full} ]; then echo no room left >&2; exit 1; fi")
    async with control.running() as planner:
        before = control.taken(EDGE)
        full.touch()
        compile_anew(planner)
        refused = await control.withheld(EDGE)
        assert refused.reason == "no room left"
        full.unlink()
        planner.retry(EDGE, refused.configuration)

        async def offered() -> bool:
            return control.offered(EDGE).configuration == refused.configuration

        await eventually(offered, "it is offered")
        assert not control.offered(EDGE).same_configuration(before)
        assert (control.newest(EDGE).fate, control.newest(EDGE).reason) == (Fate.OFFERED, "")


@pytest.mark.parametrize("script", ["exec sleep 600", ""], ids=["does not end", "cannot be run"])
async def test_where_envoy_does_not_say_the_log_does_and_the_gateway_judges(
    control: ControlPlane,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    script: str,
) -> None:
    monkeypatch.setattr(validation, "_WITHIN_S", 0.2)
    judged_by(monkeypatch, tmp_path, script)
    if not script:
        (tmp_path / "judge").chmod(0o600)
    async with control.running():
        assert control.newest(EDGE).fate is Fate.OFFERED
        assert control.offered(EDGE).configuration == control.newest(EDGE).configuration
    assert [each["group"] for each in said(caplog, "configuration not validated")] == [EDGE]


async def test_without_an_envoy_to_ask_no_control_plane_starts(
    control: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path / "nowhere"))
    with pytest.raises(ValidatorMissing, match="nowhere"):
        async with control.running():
            pytest.fail("it has started")
