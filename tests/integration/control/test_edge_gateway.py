"""The edge gateway as the public meets it: a real Envoy, fed by a real control plane, two nodes behind it."""

import asyncio
import json
import signal
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric import ec

from deploy.local import configuration, control_planes, envoy
from tests.integration.control.world import World, eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")
NODES = ("edge-1", "edge-2", "edge-3")
# Frames of HTTP/2 and their flags (RFC 9113, section 6).
DATA, HEADERS, RST_STREAM, SETTINGS, WINDOW_UPDATE = 0, 1, 3, 4, 8
END_STREAM, END_OF_BOTH = 1, 5


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    world = World(tmp_path_factory.mktemp("edge"))
    world.add("control-public", "control-public", "public", "ads")
    for node in NODES:
        world.add(node, "edge", "public", "http", "grpc")
    world.add("edge-gateway", "edge-gateway", "public", "https", "metrics")
    world.publish()
    try:
        await world.control("public")
        for node in NODES:
            await world.start(node)
        for node in NODES:
            await world.serving(node, "grpc")
        await world.start("edge-gateway")
        await world.serving("edge-gateway", "https")
        yield world
    finally:
        await world.stop()


@pytest_asyncio.fixture(loop_scope="module")
async def public(world: World) -> AsyncIterator[aiohttp.ClientSession]:
    context = ssl.create_default_context(cafile=str(world.home.root / "ca" / "public" / "root.pem"))
    port = world.address("edge-gateway", "https").split(":")[1]
    connector = aiohttp.TCPConnector(ssl=context)
    async with aiohttp.ClientSession(f"https://localhost:{port}", connector=connector) as session:

        async def all_healthy() -> bool:
            return {(await decide(session)).get("node") for _ in range(20)} == set(NODES)

        await eventually(all_healthy, f"all nodes answer; {world.tail('edge-gateway')}; {world.tail('control-public')}")
        yield session


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def impatient(world: World) -> World:
    """The same, waiting for no client longer than a second. For the last tests: it stays so."""
    await world.kill("control-public")
    await world.control("public", ISTHMUS_CLIENT_HEAD_S="1", ISTHMUS_CLIENT_REQUEST_S="1", ISTHMUS_CLIENT_SILENCE_S="1")

    async def told() -> bool:
        gateway = world.processes["edge-gateway"]
        dump = await configuration.admin(world.home, gateway, "config_dump?resource=dynamic_listeners")
        return '"request_timeout":"1s"' in json.dumps(dump, separators=(",", ":"))

    await eventually(told, "the gateway has the new listener")
    return world


async def decide(session: aiohttp.ClientSession, **options: Any) -> dict[str, Any]:
    async with session.post("/v1/ads:decide", json={"slot": "position-1"}, **options) as answer:
        found: dict[str, Any] = await answer.json(content_type=None)
        return {**found, "status": answer.status}


def of_the_inside(answer: aiohttp.ClientResponse) -> set[str]:
    """The headers that say how the answer came about."""
    return {name for name in answer.headers if name.lower().startswith(("grpc-", "x-envoy-"))}


async def problem(answer: aiohttp.ClientResponse) -> dict[str, Any]:
    assert answer.content_type == "application/problem+json", await answer.text()
    document: dict[str, Any] = await answer.json(content_type="application/problem+json")
    assert document["status"] == answer.status
    assert document["type"].startswith("urn:isthmus:problem:")
    assert of_the_inside(answer) == set()
    return document


async def test_killing_a_node_fails_no_idempotent_request(world: World, public: aiohttp.ClientSession) -> None:
    statuses: Counter[int] = Counter()
    running = True

    async def drive() -> None:
        while running:
            statuses[(await decide(public))["status"]] += 1

    drivers = [asyncio.create_task(drive()) for _ in range(8)]

    async def asked(times: int) -> None:
        wanted = statuses.total() + times

        async def answered() -> bool:
            return statuses.total() >= wanted

        await eventually(answered, f"{times} requests more are answered")

    await asked(100)
    await world.kill("edge-1")
    await asked(400)
    running = False
    await asyncio.gather(*drivers)
    await world.start("edge-1")
    assert set(statuses) == {200}


async def test_freezing_a_node_fails_no_idempotent_request_and_moves_traffic(
    world: World, public: aiohttp.ClientSession
) -> None:
    world.signal("edge-2", signal.SIGSTOP)
    try:
        answers = await asyncio.gather(*(decide(public) for _ in range(30)))
        assert {answer["status"] for answer in answers} == {200}

        async def moved() -> bool:
            return "edge-2" not in {(await decide(public))["node"] for _ in range(12)}

        await eventually(moved, "nobody is sent to the frozen one")
        started = asyncio.get_running_loop().time()
        for _ in range(30):
            assert (await decide(public))["node"] != "edge-2"
        assert asyncio.get_running_loop().time() - started < 2
    finally:
        world.signal("edge-2", signal.SIGCONT)


async def test_a_frozen_gateway_is_unhealthy_and_one_that_drains_says_so(
    world: World, public: aiohttp.ClientSession
) -> None:
    async def becomes(state: str) -> None:
        async def holds() -> bool:
            found = {each.node: each for each in (await control_planes.reports(world.home)).endpoints}
            return control_planes.state(found["edge-gateway"]) == state

        await eventually(holds, f"the gateway is {state}; {world.tail('control-public')}")

    await becomes("healthy")
    world.signal("edge-gateway", signal.SIGSTOP)
    try:
        await becomes("unhealthy")
    finally:
        world.signal("edge-gateway", signal.SIGCONT)
    await becomes("healthy")
    # One that is told to drain says so, and is not taken for dead.
    connector = aiohttp.UnixConnector(str(envoy.admin_socket(world.home, "edge-gateway")))
    async with aiohttp.ClientSession("http://admin", connector=connector, raise_for_status=True) as admin:
        await admin.post("/healthcheck/fail")
        try:
            await becomes("draining")
        finally:
            await admin.post("/healthcheck/ok")
    await becomes("healthy")


async def test_names_reserved_for_the_mesh_do_not_come_in(public: aiohttp.ClientSession) -> None:
    forged = {
        "x-request-id": "11111111-1111-1111-1111-111111111111",
        "x-isthmus-peer": "operator",
        "x-forwarded-client-cert": "URI=spiffe://isthmus.internal/private/operator",
        "x-envoy-retry-on": "5xx",
        "x-envoy-upstream-rq-timeout-ms": "1",
        "grpc-timeout": "1n",
        "baggage": "a=b",
        "tracestate": "a=b",
        "x-request-start": "t=1",
        "x-original-url": "/stats",
        "x-rewrite-url": "/stats",
        "x-jwt-payload": "eyJzdWIiOiJvcGVyYXRvciJ9",
        "traceparent": f"00-{'a' * 32}-{'b' * 16}-01",
    }
    seen = (await decide(public, headers=forged))["headers"]
    assert seen["x-request-id"] != forged["x-request-id"]
    # These are made anew, or told in another form.
    kept = {"x-request-id", "x-forwarded-client-cert", "traceparent"}
    assert not (forged.keys() - kept) & seen.keys()
    assert "operator" not in seen.get("x-forwarded-client-cert", "")
    assert seen["traceparent"] == f"00-{'a' * 32}-{'b' * 16}-00"


async def test_how_the_inside_answers_does_not_go_out(public: aiohttp.ClientSession) -> None:
    async with public.post("/v1/ads:decide", json={"slot": "position-1"}) as answer:
        assert answer.status == 200
        assert of_the_inside(answer) == set()
        assert answer.headers.getall("server") == ["isthmus"]


async def test_a_request_without_a_trace_gets_none_from_the_gateway(public: aiohttp.ClientSession) -> None:
    assert "traceparent" not in (await decide(public))["headers"]


async def test_unknown_paths_are_problems(public: aiohttp.ClientSession) -> None:
    for path in ("/", "/v1/nothing", "/isthmus.ads.v1.Ads/Decide", "/stats", "/v1/content/a/b", "/v1/payments/x:y"):
        async with public.get(path) as answer:
            assert (await problem(answer))["reason"] == "NOT_FOUND"
            assert answer.status == 404


async def test_wrong_methods_name_the_right_ones(public: aiohttp.ClientSession) -> None:
    async with public.delete("/v1/ads:decide") as answer:
        assert (await problem(answer))["status"] == 405
        assert answer.headers["allow"] == "GET, HEAD, POST"
    async with public.get("/v1/payments/x:void") as answer:
        assert (await problem(answer))["status"] == 405
        assert answer.headers["allow"] == "POST"


async def test_large_bodies_are_refused(public: aiohttp.ClientSession) -> None:
    async with public.post("/v1/ads:decide", data=b"x" * (65 << 10)) as answer:
        assert (await problem(answer))["status"] == 413


async def test_large_headers_are_refused(public: aiohttp.ClientSession) -> None:
    async with public.get("/v1/content/a", headers={"x-large": "x" * 20000}) as answer:
        assert (await problem(answer))["status"] == 431


async def test_escaped_slashes_are_refused(public: aiohttp.ClientSession, world: World) -> None:
    port = world.address("edge-gateway", "https")
    context = ssl.create_default_context(cafile=str(world.home.root / "ca" / "public" / "root.pem"))
    reader, writer = await asyncio.open_connection("127.0.0.1", int(port.split(":")[1]), ssl=context)
    writer.write(b"GET /v1/content/a%2fb HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 400")
    assert json.loads(answer.split(b"\r\n\r\n", 1)[1])["reason"] == "BAD_REQUEST"


async def test_a_token_that_cannot_be_checked_is_not_called_a_bad_one(public: aiohttp.ClientSession) -> None:
    # There is no private zone here that would have the issuer's keys.
    key = ec.generate_private_key(ec.SECP256R1())
    claims = {"iss": "https://issuer.test", "aud": "isthmus-core", "exp": int(time.time()) + 60, "sub": "member-1"}
    token = jwt.encode(claims, key, "ES256", {"kid": "k1", "typ": "at+jwt"})
    async with public.get("/v1/orders/a", headers={"authorization": f"Bearer {token}"}) as answer:
        document = await problem(answer)
        assert (answer.status, document["status"], document["reason"]) == (503, 503, "KEYS_UNAVAILABLE")
        assert answer.headers["retry-after"] == "1"


async def test_private_methods_require_a_token(public: aiohttp.ClientSession) -> None:
    for headers in ({}, {"authorization": "Bearer nonsense"}, {"authorization": "Basic YTpi"}):
        async with public.get("/v1/orders/a", headers=headers) as answer:
            assert (await problem(answer))["status"] == 401
            assert answer.headers["www-authenticate"].startswith("Bearer")


async def test_no_private_gateway_is_a_plain_503(public: aiohttp.ClientSession) -> None:
    async with public.get("/oauth/jwks.json") as answer:
        document = await problem(answer)
        assert document["reason"] == "UNAVAILABLE"
        assert answer.headers["retry-after"] == "1"
        assert "upstream" not in json.dumps(document)


async def test_tls_1_2_is_refused(world: World) -> None:
    context = ssl.create_default_context(cafile=str(world.home.root / "ca" / "public" / "root.pem"))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    port = int(world.address("edge-gateway", "https").split(":")[1])
    with pytest.raises(ssl.SSLError):
        await asyncio.open_connection("127.0.0.1", port, ssl=context)


async def test_http_2_is_offered(world: World) -> None:
    context = ssl.create_default_context(cafile=str(world.home.root / "ca" / "public" / "root.pem"))
    context.set_alpn_protocols(["h2", "http/1.1"])
    port = int(world.address("edge-gateway", "https").split(":")[1])
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
    writer.close()


async def test_a_gateway_outlives_its_control_plane(
    world: World, public: aiohttp.ClientSession, tmp_path: Path
) -> None:
    await world.kill("control-public")
    assert {(await decide(public))["status"] for _ in range(20)} == {200}
    await world.kill("edge-3")
    assert {(await decide(public))["status"] for _ in range(20)} == {200}
    await world.start("edge-3")
    await world.control("public")
    await world.serving("control-public", "ads")


async def test_a_fault_is_put_into_the_public_s_calls_and_taken_back(
    world: World, public: aiohttp.ClientSession
) -> None:
    await world.fault("public", "/isthmus.ads.v1.Ads/Decide")

    async def status(wanted: int) -> bool:
        return int((await decide(public))["status"]) == wanted

    await eventually(lambda: status(429), "the fault is there")
    await world.clear("public")
    await eventually(lambda: status(200), "the fault is gone")


@pytest.mark.parametrize(
    "drop",
    [
        b"GET /v1/ads:decide?slot=position-1 HTTP/1.1\r\nhost: localhost\r\nx-slow: ",
        b"POST /v1/ads:decide HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        b"content-length: 9999\r\n\r\n",
        b"POST /v1/receipts HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        b"transfer-encoding: chunked\r\n\r\n9999\r\n",
    ],
    ids=["head", "body", "body of no stated length"],
)
async def test_a_client_that_asks_drop_by_drop_gives_its_place_up(impatient: World, drop: bytes) -> None:
    context = ssl.create_default_context(cafile=str(impatient.home.root / "ca" / "public" / "root.pem"))
    port = int(impatient.address("edge-gateway", "https").split(":")[1])
    reader, writer = await asyncio.open_connection("localhost", port, ssl=context)

    async def drip() -> None:
        while True:
            writer.write(b"x")
            await asyncio.sleep(0.1)

    writer.write(drop)
    dripping = asyncio.create_task(drip())
    try:
        # It is told so, and the connection ends, though it goes on.
        answer = await asyncio.wait_for(reader.read(), 60)
    finally:
        dripping.cancel()
        writer.close()
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"application/problem+json" in answer


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """One of HTTP/2 (RFC 9113, section 4.1)."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


@pytest.mark.parametrize("reads_a_byte_at_a_time", [False, True], ids=["not at all", "drop by drop"])
async def test_a_client_that_reads_slowly_gives_its_place_up(impatient: World, *, reads_a_byte_at_a_time: bool) -> None:
    context = ssl.create_default_context(cafile=str(impatient.home.root / "ca" / "public" / "root.pem"))
    context.set_alpn_protocols(["h2"])
    port = int(impatient.address("edge-gateway", "https").split(":")[1])
    reader, writer = await asyncio.open_connection("localhost", port, ssl=context)
    no_room = frame(SETTINGS, 0, 0, (4).to_bytes(2, "big") + (0).to_bytes(4, "big"))
    # GET and https of the static table, path and authority as they are (RFC 7541, appendix A and section 6.2.2).
    head = b"\x82\x87" + b"\x04\x0d/openapi.json" + b"\x01\x09localhost"
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + no_room + frame(HEADERS, END_OF_BOTH, 1, head))
    received = 0

    async def drip() -> None:
        while True:
            writer.write(frame(WINDOW_UPDATE, 0, 1, (1).to_bytes(4, "big")))
            await asyncio.sleep(0.1)

    async def until_reset() -> None:
        nonlocal received
        while True:
            start = await reader.readexactly(9)
            payload = await reader.readexactly(int.from_bytes(start[:3], "big"))
            if start[3] == RST_STREAM:
                return
            if start[3] == DATA:
                received += len(payload)
                assert not start[4] & END_STREAM

    dripping = asyncio.create_task(drip()) if reads_a_byte_at_a_time else None
    try:
        # The answer is dropped, though it could still be fetched.
        await asyncio.wait_for(until_reset(), 60)
    finally:
        if dripping is not None:
            dripping.cancel()
        writer.close()
    assert (received > 0) == reads_a_byte_at_a_time
