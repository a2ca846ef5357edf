"""The ADS port itself: who may ask, what he is told, and what happens to those who break the rules."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import grpc
import pytest
import pytest_asyncio
from envoy.config.core.v3 import health_check_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2

from mesh.control.conversation import NAMES_MAX
from mesh.control.snapshot import CLUSTER, ENDPOINTS, LISTENER
from mesh.tls import Identity
from security.identity import wallet
from security.identity.authority import Authority
from security.identity.bundle import bundle
from tests.integration.conftest import TRUST_DOMAIN
from tests.integration.control.world import World

pytestmark = pytest.mark.asyncio(loop_scope="module")
DEADLINE_S = 30
# So long that what comes earlier has another cause, on a busy machine too.
PROBE_INTERVAL_S = 4


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    world = World(tmp_path_factory.mktemp("ads"))
    world.add("control-private", "control-private", "private", "ads")
    world.add("orders-1", "orders", "private", "grpc")
    world.add("members-1", "members", "private", "grpc")
    world.add("core-gateway", "core-gateway", "private", "https", "metrics")
    world.identities.issue("public", "edge-gateway")
    world.identities.issue("private", "postgres")
    elsewhere(world, "orders-of-elsewhere")
    world.publish()
    try:
        await world.control("private", ISTHMUS_PROBE_INTERVAL_S=str(PROBE_INTERVAL_S))
        await world.serving("control-private", "ads")
        yield world
    finally:
        await world.stop()


def elsewhere(world: World, process: str) -> None:
    """The zone's own authority vouches for orders, but of another trust domain."""
    authority = Authority.open_or_create(world.home.root / "ca" / "private", TRUST_DOMAIN, "private")
    authority.trust_domain = "elsewhere.internal"
    roots = bundle(world.home.root, "orders", "private")
    assert roots is not None
    leaf = authority.issue("orders", timedelta(hours=1))
    wallet.write(world.home.identity(process).parent, wallet.Wallet(leaf, roots, None))


def channel(world: World, name: str) -> grpc.aio.Channel:
    credentials = Identity(world.home.identity(name)).channel_credentials()
    options = (("grpc.ssl_target_name_override", "localhost"), ("grpc.use_local_subchannel_pool", 1))
    return grpc.aio.secure_channel(world.address("control-private", "ads"), credentials, options)


def stream(open_channel: grpc.aio.Channel) -> Any:
    return ads_pb2_grpc.AggregatedDiscoveryServiceStub(open_channel).StreamAggregatedResources(timeout=DEADLINE_S)


def request(kind: str, *names: str, nonce: str = "", error: str = "") -> Any:
    message = discovery_pb2.DiscoveryRequest(type_url=kind, resource_names=names, response_nonce=nonce)
    if error:
        message.error_detail.message = error
    return message


async def ask(call: Any, message: Any) -> Any:
    """The answer to one request; None when the stream was ended instead."""
    with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
        await call.write(message)
        answer = await call.read()
        return None if answer is grpc.aio.EOF else answer
    return None


async def names_told(world: World, name: str) -> set[str]:
    """Names of the clusters that a data plane gets which asks for all of them."""
    async with channel(world, name) as opened:
        call = stream(opened)
        await call.write(request(CLUSTER))
        response = await call.read()
        call.cancel()
    return {
        cluster
        for cluster in ("orders", "members", "oauth-http")
        if any(cluster.encode() in r.value for r in response.resources)
    }


async def test_a_group_follows_from_the_certificate_and_not_from_what_a_peer_says(world: World) -> None:
    assert "oauth-http" in await names_told(world, "core-gateway")
    assert "oauth-http" not in await names_told(world, "orders-1")


@pytest.mark.parametrize("stranger", ["postgres", "edge-gateway", "orders-of-elsewhere"])
async def test_who_is_no_data_plane_of_the_zone_is_told_nothing(world: World, stranger: str) -> None:
    async with channel(world, stranger) as opened:
        call = stream(opened)
        assert await ask(call, request(CLUSTER)) is None
        # Which code the client sees depends on whether its request or the refusal was first on the way.
        assert await call.code() is not grpc.StatusCode.OK


async def test_a_refused_configuration_is_not_repeated_and_the_stream_goes_on(world: World) -> None:
    async with channel(world, "members-1") as opened:
        call = stream(opened)
        await call.write(request(LISTENER, "orders"))
        first = await call.read()
        await call.write(request(LISTENER, "orders", nonce=first.nonce, error="no such filter"))
        await call.write(request(ENDPOINTS, "orders"))
        following = await call.read()
        assert following.type_url == ENDPOINTS
        call.cancel()
    assert "no such filter" in world.tail("control-private")


async def test_a_client_that_asks_for_too_much_is_cut_off(world: World) -> None:
    async with channel(world, "orders-1") as opened:
        call = stream(opened)
        assert await ask(call, request(ENDPOINTS, *(str(number) for number in range(NAMES_MAX + 1)))) is None
        assert await call.code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_streams_of_one_workload_are_bounded_and_others_go_on(world: World) -> None:
    async with channel(world, "orders-1") as opened:
        calls = [stream(opened) for _ in range(70)]
        answers = [await ask(call, request(CLUSTER)) for call in calls]
        refused = [call for call, answer in zip(calls, answers, strict=True) if answer is None]
        # A stream of a test before this one may still count for a moment.
        assert 60 <= len(calls) - len(refused) <= 64
        assert await refused[-1].code() is not grpc.StatusCode.OK
        assert await names_told(world, "members-1")
        for call in calls:
            call.cancel()


async def test_requests_of_unknown_types_have_no_effect(world: World) -> None:
    async with channel(world, "orders-1") as opened:
        call = stream(opened)
        await call.write(request("type.googleapis.com/nothing.Such"))
        await call.write(request(CLUSTER, "orders"))
        assert (await call.read()).type_url == CLUSTER
        call.cancel()


async def test_the_death_of_a_node_is_told_before_the_next_probe_is_due(world: World) -> None:
    await world.start("orders-1")
    async with channel(world, "members-1") as opened:
        call = stream(opened)
        answer = await ask(call, request(ENDPOINTS, "orders"))
        while health_of(answer) != health_check_pb2.HEALTHY:
            answer = await ask(call, request(ENDPOINTS, "orders", nonce=answer.nonce))
        started = time.monotonic()
        await world.kill("orders-1")
        answer = await ask(call, request(ENDPOINTS, "orders", nonce=answer.nonce))
        assert health_of(answer) != health_check_pb2.HEALTHY
        assert time.monotonic() - started < PROBE_INTERVAL_S / 2
        call.cancel()


def health_of(answer: Any) -> Any:
    """Of the only endpoint in an answer."""
    assignment = endpoint_pb2.ClusterLoadAssignment()
    assert answer.resources[0].Unpack(assignment)
    return assignment.endpoints[0].lb_endpoints[0].health_status
