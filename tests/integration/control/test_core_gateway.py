"""The core gateway, alone and behind the edge gateway: who may pass, what becomes of JSON, how errors look outside."""

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import grpc
import jwt
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric import ec
from isthmus.orders.v1 import orders_pb2, orders_pb2_grpc

from deploy.local import envoy
from mesh.tls import Identity
from tests.integration.control.test_edge_gateway import problem
from tests.integration.control.world import World, eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")
ISSUER = "https://issuer.test"
ORDERS = ("orders-1", "orders-2")
KEY = ec.generate_private_key(ec.SECP256R1())


def token(**claims: Any) -> dict[str, str]:
    now = int(time.time())
    content = {
        "iss": ISSUER,
        "aud": "isthmus-core",
        "sub": "storefront",
        "client_id": "storefront",
        "scope": "orders.read orders.write payments.read",
        "iat": now,
        "exp": now + 300,
        "jti": "1",
        **claims,
    }
    signed = jwt.encode(content, KEY, "ES256", {"kid": "k1", "typ": "at+jwt"})
    return {"authorization": f"Bearer {signed}"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    world = World(tmp_path_factory.mktemp("core"))
    for zone in ("public", "private"):
        world.add(f"control-{zone}", f"control-{zone}", zone, "ads")
    for node in ORDERS:
        world.add(node, "orders", "private", "grpc")
    world.add("gateway-1", "gateway", "private", "grpc")
    world.add("oauth-1", "oauth", "private", "http", "grpc")
    world.add("edge-gateway", "edge-gateway", "public", "https", "metrics")
    world.add("core-gateway", "core-gateway", "private", "https", "metrics")
    for workload, zone in (("operator", "private"), ("members", "private"), ("edge", "public")):
        world.identities.issue(zone, workload)
    jwk = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(KEY.public_key()))
    keys = {"keys": [{**jwk, "kid": "k1", "alg": "ES256", "use": "sig"}]}
    (world.home.root / "jwks.json").write_text(json.dumps(keys))
    world.publish()
    try:
        for zone in ("public", "private"):
            await world.control(zone)
        for node in (*ORDERS, "oauth-1", "gateway-1"):
            await world.start(node)
        for node in (*ORDERS, "oauth-1", "gateway-1"):
            await world.serving(node, "grpc")
        for gateway in ("core-gateway", "edge-gateway"):
            await world.start(gateway)
            await world.serving(gateway, "https")
        yield world
    finally:
        await world.stop()


@pytest_asyncio.fixture(loop_scope="module")
async def public(world: World) -> AsyncIterator[aiohttp.ClientSession]:
    context = ssl.create_default_context(cafile=str(world.home.root / "ca" / "public" / "root.pem"))
    port = world.address("edge-gateway", "https").split(":")[1]
    async with aiohttp.ClientSession(
        f"https://localhost:{port}", connector=aiohttp.TCPConnector(ssl=context)
    ) as session:

        async def ready() -> bool:
            async with session.get("/v1/orders/a", headers=token()) as answer:
                return answer.status == 200

        logs = "\n".join(world.tail(name) for name in ("edge-gateway", "core-gateway", "control-private", "orders-1"))
        await eventually(ready, f"orders can be read\n{logs}")
        yield session


def channel(world: World, workload: str) -> grpc.aio.Channel:
    """A native gRPC channel to the core gateway with the identity of a workload."""
    identity = Identity(world.home.identity(workload))
    options = (("grpc.ssl_target_name_override", "core-gateway.private.isthmus.internal"),)
    return grpc.aio.secure_channel(world.address("core-gateway", "https"), identity.channel_credentials(), options)


JSON = {"content-type": "application/json"}
ORDER = {
    "idempotency_key": "12345678",
    "member_id": "m1",
    "lines": [{"sku": "a", "quantity": 1, "amount": {"currency": "EUR", "minor": "100"}}],
}


async def test_json_becomes_a_call_and_its_answer_json(public: aiohttp.ClientSession) -> None:
    async with public.post("/v1/orders", json=ORDER, headers=token()) as answer:
        assert answer.status == 200, await answer.text()
        placed = (await answer.json())["order"]
        assert placed["order_id"] in ORDERS
        assert placed["member_id"] == "m1"
        assert not {name for name in answer.headers if name.lower().startswith(("grpc-", "x-envoy-"))}
        assert answer.headers["server"] == "isthmus"


async def test_the_deadline_of_the_contract_reaches_the_service(public: aiohttp.ClientSession) -> None:
    async with public.get("/v1/orders/a", headers=token()) as answer:
        left_ms = int((await answer.json())["order"]["source_time_us"])
        assert 1000 < left_ms <= 3000


@pytest.mark.parametrize(
    ("order_id", "status", "reason"),
    [
        ("missing", 404, "ORDER_NOT_FOUND"),
        ("conflict", 409, "PAYMENT_LIVE"),
        ("away", 503, "DATABASE_AWAY"),
        ("who", 401, "TOKEN_EXPIRED"),
        ("wrong", 400, "FIELDS_INVALID"),
        ("bug", 500, "INTERNAL"),
    ],
)
async def test_errors_of_services_are_problems(
    public: aiohttp.ClientSession, order_id: str, status: int, reason: str
) -> None:
    async with public.get(f"/v1/orders/{order_id}", headers=token()) as answer:
        assert answer.status == status, await answer.text()
        document = await problem(answer)
        assert document["reason"] == reason
        assert "secret" not in json.dumps(document)
        if order_id == "missing":
            assert document["detail"] == 'there is no order "missing"'
            assert document["remedy"] == "look at your orders"
        if order_id == "wrong":
            assert document["errors"] == [{"field": "order_id", "rule": 'matches "^[a-z]+$", {x} ]'}]
        if status == 401:
            assert answer.headers["www-authenticate"].startswith("Bearer")
        if status == 503:
            assert answer.headers["retry-after"] == "1"


async def test_rules_of_fields_are_told_by_field(public: aiohttp.ClientSession) -> None:
    async with public.post("/v1/orders", json={"idempotency_key": "short"}, headers=token()) as answer:
        assert answer.status == 400
        fields = {error["field"] for error in (await problem(answer))["errors"]}
        assert {"idempotency_key", "lines"} <= fields


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b'{"idempotency_key": 1e400}',
        b'{"unknown": 1}',
        b'{"member_id": "\xff\xfe"}',
        b'{"source_time_us": "99999999999999999999"}',
        b'{"lines": [{"quantity": -1}]}',
    ],
)
async def test_bad_json_is_a_problem(public: aiohttp.ClientSession, body: bytes) -> None:
    async with public.post("/v1/orders", data=body, headers=token() | JSON) as answer:
        assert answer.status == 400, await answer.text()
        assert "isthmus.orders" not in json.dumps(await problem(answer))


@pytest.mark.parametrize("where", ["top", "nested"])
async def test_unknown_fields_are_refused(public: aiohttp.ClientSession, where: str) -> None:
    line = {**ORDER["lines"][0], "surprise": 1} if where == "nested" else ORDER["lines"][0]  # type: ignore[dict-item]
    order = {**ORDER, "lines": [line], **({"surprise": 1} if where == "top" else {})}
    async with public.post("/v1/orders", json=order, headers=token()) as answer:
        document = await problem(answer)
        assert (document["status"], document["reason"]) == (400, "FIELD_UNKNOWN")
        assert document["errors"] == [{"field": "surprise", "rule": "is not known here"}]


async def test_repeated_fields_are_refused(public: aiohttp.ClientSession) -> None:
    body = b'{"member_id": "m1", "memberId": "m2"}'
    async with public.post("/v1/orders", data=body, headers=token() | JSON) as answer:
        assert (await problem(answer))["errors"] == [{"field": "memberId", "rule": "comes twice"}]


@pytest.mark.parametrize("kind", ["", "text/plain", "application/x-www-form-urlencoded", "application/json; charset=x"])
async def test_a_body_that_says_it_is_something_else_is_refused(public: aiohttp.ClientSession, kind: str) -> None:
    headers = token() | {"content-type": kind}
    async with public.post("/v1/orders", data=json.dumps(ORDER).encode(), headers=headers) as answer:
        assert (await problem(answer))["reason"] == "UNSUPPORTED_MEDIA_TYPE"


@pytest.mark.parametrize("text", ["x' OR '1'='1' --", "<script>alert(1)</script>", "%3Csvg%2Fonload%3Dalert(1)%3E"])
async def test_what_looks_like_an_attack_does_not_reach_the_service(public: aiohttp.ClientSession, text: str) -> None:
    line = {**ORDER["lines"][0], "sku": text}  # type: ignore[dict-item]
    async with public.post("/v1/orders", json={**ORDER, "lines": [line]}, headers=token()) as answer:
        document = await problem(answer)
        assert (answer.status, document["reason"]) == (400, "INPUT_REFUSED")
        assert "sku" in document["detail"]
        assert text not in json.dumps(document)


async def test_unknown_query_parameters_are_refused(public: aiohttp.ClientSession) -> None:
    async with public.get("/v1/orders/a?surprise=1", headers=token()) as answer:
        assert (await problem(answer))["status"] == 400


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://else.where"},
        {"aud": "others"},
        {"exp": int(time.time()) - 100},
        {"nbf": int(time.time()) + 1000},
    ],
)
async def test_tokens_of_others_are_refused_at_the_edge(public: aiohttp.ClientSession, claims: dict[str, Any]) -> None:
    async with public.get("/v1/orders/a", headers=token(**claims)) as answer:
        assert (await problem(answer))["status"] in (401, 403)


async def test_a_service_is_called_with_an_inner_token_for_it_alone(public: aiohttp.ClientSession) -> None:
    sent = {**token(), "cookie": "a=b", "x-isthmus-peer": "spiffe://isthmus.internal/private/core-gateway"}
    async with public.get("/v1/orders/token", headers=sent) as answer:
        scheme, _, text = (await answer.json())["order"]["member_id"].partition(" ")
    header, said = jwt.get_unverified_header(text), jwt.decode(text, options={"verify_signature": False})
    assert (scheme, header["typ"], header["alg"]) == ("Bearer", "inner+jwt", "ES256")
    assert f"{scheme} {text}" != sent["authorization"]
    assert (said["iss"], said["aud"]) == ("spiffe://isthmus.internal/private/gateway", "orders")
    assert (said["sub"], said["client_id"], said["origin"]) == ("storefront", "storefront", "1")
    assert said["act"] == {"sub": "spiffe://isthmus.internal/private/core-gateway"}
    # What orders needs for this call and for those that it may make for it; payments.read is none of it.
    assert said["scope"] == "orders.read orders.write"
    assert 0 < said["exp"] - said["iat"] <= 60


async def test_a_refused_call_says_what_would_help(public: aiohttp.ClientSession) -> None:
    async with public.get("/v1/orders/a", headers=token(scope="orders.write", jti="2")) as answer:
        document = await problem(answer)
        assert (answer.status, document["reason"]) == (403, "SCOPE_MISSING")
        assert answer.headers["www-authenticate"] == 'Bearer error="insufficient_scope", scope="orders.read"'
    # The edge gateway lets it pass; that its name for itself is of no length is for the decision point to see.
    async with public.post("/v1/orders", json=ORDER, headers=token(client_id="", jti="3")) as answer:
        document = await problem(answer)
        assert (answer.status, document["reason"]) == (401, "TOKEN_INVALID")
        assert "invalid_token" in answer.headers["www-authenticate"]
        assert "client" not in json.dumps(document)


async def test_nobody_decides_and_nothing_sensitive_passes(world: World, public: aiohttp.ClientSession) -> None:
    await world.kill("gateway-1")
    try:
        async with public.get("/v1/orders/a", headers=token()) as answer:
            assert ((await problem(answer))["status"], answer.headers["retry-after"]) == (503, "1")
        async with public.post("/oauth/token", data=b"grant_type=x") as answer:
            assert answer.status == 200
    finally:
        await world.start("gateway-1")
        await world.serving("gateway-1", "grpc")

    async def decided() -> bool:
        async with public.get("/v1/orders/a", headers=token()) as answer:
            return answer.status == 200

    await eventually(decided, f"a decision is made again\n{world.tail('gateway-1')}")


async def test_what_is_said_of_a_method_s_route_holds_for_its_json_calls(
    world: World, public: aiohttp.ClientSession
) -> None:
    """Rates and faults are settings of the route that a call has as gRPC."""
    await world.fault("private", "/isthmus.orders.v1.Orders/GetOrder")

    async def status(wanted: int) -> bool:
        async with public.get("/v1/orders/a", headers=token()) as answer:
            if answer.status == 429:
                assert ((await problem(answer))["status"], answer.headers["retry-after"]) == (429, "1")
            return answer.status == wanted

    await eventually(lambda: status(429), "the fault is there")
    await world.clear("private")
    await eventually(lambda: status(200), "the fault is gone")
    before = await counted(world)
    for _ in range(3):
        assert await status(200)
    assert await counted(world) - before == 3


async def counted(world: World) -> int:
    """Calls that the core gateway has taken out of some method's bucket."""
    connector = aiohttp.UnixConnector(str(envoy.admin_socket(world.home, "core-gateway")))
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.get("http://admin/stats/prometheus") as answer,
    ):
        lines = (await answer.text()).splitlines()
    return sum(int(line.split()[-1]) for line in lines if "http_local_rate_limit_ok" in line and line[0] != "#")


async def test_pages_of_the_authorization_server_need_no_token(public: aiohttp.ClientSession) -> None:
    async with public.post("/oauth/token", data=b"grant_type=x") as answer:
        seen = await answer.json()
        assert (answer.status, seen["path"], seen["body"]) == (200, "/oauth/token", 12)
    async with public.get("/.well-known/oauth-authorization-server") as answer:
        assert answer.status == 200


async def test_the_request_id_of_the_edge_is_kept(public: aiohttp.ClientSession) -> None:
    async with public.get("/oauth/authorize") as answer:
        assert (await answer.json())["headers"]["x-request-id"] == answer.headers["x-request-id"]


async def test_an_operator_may_call_what_names_it_and_nothing_else(world: World, public: aiohttp.ClientSession) -> None:
    async with channel(world, "operator") as operator:
        orders = orders_pb2_grpc.OrdersStub(operator)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await orders.GetOrder(orders_pb2.GetOrderRequest(order_id="a"), timeout=5)
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
        with pytest.raises(grpc.aio.AioRpcError) as reached:
            await orders.SummarizeOrders(orders_pb2.SummarizeOrdersRequest(), timeout=5)
        # The service knows who came through the gateway: it let the operator pass, to a handler that is none here.
        assert reached.value.details() == "the service failed on this call"


async def test_the_edge_gateway_may_not_speak_grpc_of_its_own(world: World, public: aiohttp.ClientSession) -> None:
    async with channel(world, "edge-gateway") as gateway:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await orders_pb2_grpc.OrdersStub(gateway).GetOrder(orders_pb2.GetOrderRequest(order_id="a"), timeout=5)
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize("workload", ["members", "edge"])
async def test_nobody_else_gets_a_connection(world: World, public: aiohttp.ClientSession, workload: str) -> None:
    async with channel(world, workload) as stranger:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await orders_pb2_grpc.OrdersStub(stranger).SummarizeOrders(orders_pb2.SummarizeOrdersRequest(), timeout=3)
        assert refused.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


async def test_killing_a_replica_fails_no_idempotent_call(world: World, public: aiohttp.ClientSession) -> None:
    statuses: list[int] = []
    running = True

    arrived = asyncio.Semaphore(0)

    async def drive() -> None:
        while running:
            async with public.get("/v1/orders/a", headers=token()) as answer:
                statuses.append(answer.status)
                arrived.release()

    async def answered(more: int) -> None:
        async with asyncio.timeout(60):
            for _ in range(more):
                await arrived.acquire()

    drivers = [asyncio.create_task(drive()) for _ in range(4)]
    await answered(20)
    await world.kill("orders-1")
    await answered(60)
    running = False
    await asyncio.gather(*drivers)
    await world.start("orders-1")
    assert set(statuses) == {200}
