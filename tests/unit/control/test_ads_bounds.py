"""What one data plane can do to the others by behaving badly: nothing; and its name stands in the log."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2

from mesh.contract.model import RateLimit
from mesh.control import ads, conversation, stream
from mesh.control.cache import SnapshotCache
from mesh.control.compile import GRPC
from mesh.control.snapshot import CLUSTER, LISTENER
from mesh.guard import ANY_OF_ZONE
from mesh.server import ServerBuilder
from mesh.tls import Identity
from tests.unit.control.test_conversation import snapshot
from tests.unit.mesh.conftest import Zone

STREAMS_OF_ONE = 64
NODES = {"orders": {"orders-1"}, "members": {"members-1"}}


class Mesh:
    """The ADS of one zone, and the authority that vouches for those who ask."""

    def __init__(self, home: Path) -> None:
        self.zone = Zone(home, "private")
        self.cache = SnapshotCache()
        self.cache.set(GRPC, snapshot(["a"]))
        self.ads = ads.Ads(
            self.cache, {}, GRPC, streams_max=1024, streams_per_workload_max=STREAMS_OF_ONE, known=lambda: NODES
        )
        self.server = self.zone.join("stand-in", concurrent_calls_max=4096)

    @asynccontextmanager
    async def asked_by(self, workload: str) -> AsyncIterator[Any]:
        """Opens streams to it, as a node of a workload."""
        credentials = Identity(self.zone.issue(workload)).channel_credentials()
        options = (("grpc.ssl_target_name_override", "localhost"), ("grpc.use_local_subchannel_pool", 1))
        address = self.server.settings.grpc_address or ""
        async with grpc.aio.secure_channel(address, credentials, options) as channel:
            yield ads_pb2_grpc.AggregatedDiscoveryServiceStub(channel).StreamAggregatedResources


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[Mesh]:
    mesh = Mesh(tmp_path)
    adder = ads_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server
    server = ServerBuilder(mesh.server).add_infrastructure(adder, mesh.ads, ANY_OF_ZONE).build()
    await server.start()
    try:
        async with asyncio.timeout(90):
            yield mesh
    finally:
        await server.stop(0)


def be_impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A minute is too long to wait for in a test. Whoever is to stay has answered before."""
    monkeypatch.setattr(conversation, "ANSWER_WITHIN_S", 0.3)
    monkeypatch.setattr(stream, "ANSWER_WITHIN_S", 0.3)
    monkeypatch.setattr(stream, "_TICK_S", 0.05)


def request(kind: str, nonce: str = "", node: str = "orders-1") -> Any:
    message = discovery_pb2.DiscoveryRequest(type_url=kind, response_nonce=nonce)
    message.node.id = node
    return message


async def told(call: Any, nonce: str = "") -> Any:
    """The next answer about clusters to a data plane that behaves."""
    await call.write(request(CLUSTER, nonce, "members-1"))
    return await call.read()


async def ended(call: Any) -> Any:
    """How a stream was ended, with whatever it was told before."""
    with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
        while await call.read() is not grpc.aio.EOF:
            pass
    return await call.code()


def said(caplog: pytest.LogCaptureFixture, event: str) -> list[dict[str, Any]]:
    return [vars(record)["isthmus_event"] for record in caplog.records if record.getMessage() == event]


async def test_thousands_of_streams_of_one_take_nothing_from_the_others(
    mesh: Mesh, caplog: pytest.LogCaptureFixture
) -> None:
    async with mesh.asked_by("orders") as open_orders, mesh.asked_by("members") as open_members:
        well = open_members()
        first = await told(well)
        held = [open_orders() for _ in range(STREAMS_OF_ONE)]
        for call in held:
            await call.write(request(CLUSTER))
            assert (await call.read()).type_url == CLUSTER
        for _ in range(20):
            codes = await asyncio.gather(*(ended(open_orders()) for _ in range(100)))
            assert set(codes) == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        mesh.cache.set(GRPC, snapshot(["a", "b"]))
        assert len((await told(well, first.nonce)).resources) == 2
        assert mesh.ads.open_streams == STREAMS_OF_ONE + 1
        for call in (*held, well):
            call.cancel()
    refused = said(caplog, "data plane refused")
    assert {(each["peer"], each["reason"]) for each in refused} == {("orders", "STREAMS_EXHAUSTED")}
    assert len(refused) < 2000, "it fills no disk"


async def test_streams_that_come_and_go_without_end_are_refused(mesh: Mesh, caplog: pytest.LogCaptureFixture) -> None:
    async with mesh.asked_by("orders") as open_orders, mesh.asked_by("members") as open_members:
        answers = []
        for _ in range(6 * STREAMS_OF_ONE):
            call = open_orders()
            with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                await call.write(request(CLUSTER))
                answers.append(await call.read())
            call.cancel()
        well = open_members()
        assert (await told(well)).type_url == CLUSTER
        well.cancel()
    assert any(each["reason"] == "STREAMS_TOO_OFTEN" for each in said(caplog, "data plane refused"))


@pytest.mark.parametrize("nonce", ["", "not the one", "99"])
async def test_who_never_acknowledges_or_acknowledges_something_else_is_cut_off_alone(
    mesh: Mesh, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, nonce: str
) -> None:
    async with mesh.asked_by("orders") as open_orders, mesh.asked_by("members") as open_members:
        well, call = open_members(), open_orders()
        first = await told(well)
        await well.write(request(CLUSTER, first.nonce, "members-1"))
        (plane,) = mesh.ads.planes.after("", "", 10)
        while plane.types[CLUSTER].acknowledged != first.version_info:  # noqa: ASYNC110 (a data plane has no event)
            await asyncio.sleep(0.01)
        be_impatient(monkeypatch)
        await call.write(request(CLUSTER))
        assert (await call.read()).type_url == CLUSTER
        if nonce:
            await call.write(request(CLUSTER, nonce))
        assert await ended(call) is grpc.StatusCode.FAILED_PRECONDITION
        mesh.cache.set(GRPC, snapshot(["a", "b"]))
        assert len((await well.read()).resources) == 2
        well.cancel()
    assert [each["peer"] for each in said(caplog, "data plane cut off")] == ["orders"]


async def test_who_never_asks_is_cut_off(
    mesh: Mesh, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    be_impatient(monkeypatch)
    async with mesh.asked_by("orders") as open_orders:
        assert await ended(open_orders()) is grpc.StatusCode.FAILED_PRECONDITION
    assert [each["reason"] for each in said(caplog, "data plane cut off")] == ["nothing was asked"]


async def test_who_floods_the_control_plane_with_requests_waits_for_itself(
    mesh: Mesh, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ads, "_REQUESTS", RateLimit(per_second=10, burst=50))
    async with mesh.asked_by("orders") as open_orders, mesh.asked_by("members") as open_members:
        call = open_orders()

        async def flood() -> None:
            while True:
                await call.write(request("type.googleapis.com/nothing.Such"))

        flooding = asyncio.create_task(flood())
        while not said(caplog, "data plane slowed down"):  # noqa: ASYNC110 (a log has no event)
            await asyncio.sleep(0.01)
        well = open_members()
        assert (await told(well)).type_url == CLUSTER
        well.cancel()
        flooding.cancel()
        await asyncio.gather(flooding, return_exceptions=True)
        call.cancel()


async def test_a_node_that_the_table_does_not_name_is_told_what_its_certificate_says_and_noted(
    mesh: Mesh, caplog: pytest.LogCaptureFixture
) -> None:
    async with mesh.asked_by("orders") as open_orders:
        call = open_orders()
        await call.write(request(LISTENER, node="nobody-7" + "x" * 500))
        assert (await call.read()).type_url == LISTENER
        (plane,) = mesh.ads.planes.after("", "", 10)
        assert (plane.workload, plane.node[:8], len(plane.node)) == ("orders", "nobody-7", 128)
        call.cancel()
    (noted,) = said(caplog, "data plane of an unknown node")
    assert noted["peer"] == "orders"
    assert noted["node_id"] == plane.node


async def test_who_asks_for_types_that_there_are_not_is_told_nothing_of_them_and_noted(
    mesh: Mesh, caplog: pytest.LogCaptureFixture
) -> None:
    unknown = "type.googleapis.com/nothing.Such" + "x" * 500
    async with mesh.asked_by("orders") as open_orders:
        call = open_orders()
        for _ in range(100):
            await call.write(request(unknown))
        # What it asks for beside them, it is told.
        await call.write(request(CLUSTER))
        assert (await call.read()).type_url == CLUSTER
        call.cancel()
    noted = said(caplog, "data plane asks for an unknown type")
    assert {(each["peer"], each["node_id"], each["type"]) for each in noted} == {("orders", "orders-1", unknown[:128])}
    assert len(noted) < 100, "it fills no disk"


async def test_who_is_of_another_trust_domain_is_refused_and_named(
    mesh: Mesh, caplog: pytest.LogCaptureFixture
) -> None:
    mesh.zone.authority.trust_domain = "elsewhere.internal"
    async with mesh.asked_by("orders") as open_orders:
        assert await ended(open_orders()) is grpc.StatusCode.PERMISSION_DENIED
    (refused,) = said(caplog, "peer refused")
    assert refused["peer"] == "spiffe://elsewhere.internal/private/orders"


async def test_who_is_in_no_table_is_refused_and_named(mesh: Mesh, caplog: pytest.LogCaptureFixture) -> None:
    async with mesh.asked_by("postgres") as open_postgres:
        assert await ended(open_postgres()) is grpc.StatusCode.PERMISSION_DENIED
    (refused,) = said(caplog, "data plane refused")
    assert (refused["peer"], refused["reason"]) == ("postgres", "DATA_PLANE_UNKNOWN")
