"""The client for programs outside: bindings, token, deadline, repetition, and errors with their reason."""

import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import jwt
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf.message import Message
from isthmus.catalog.v1 import catalog_pb2
from isthmus.members.v1 import members_pb2
from isthmus.orders.v1 import orders_pb2, orders_pb2_grpc

from mesh.client.isthmus import Isthmus, bound
from mesh.client.token import ClientToken
from mesh.contract import load
from mesh.errors import (
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    MeshError,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)

if TYPE_CHECKING:
    from isthmus.orders.v1.orders_pb2_grpc import OrdersAsyncStub

CONTRACT = load()
KEY = ec.generate_private_key(ec.SECP256R1())
GET = orders_pb2.GetOrderRequest(order_id="o-1")
FOUND = {"order": {"order_id": "o-1", "some_new_field": 1}}


class Mesh:
    """Answers as it is told, one after the other, and keeps what it was asked."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, object] | Callable[[], Awaitable[None]]] = []
        self.asked: list[tuple[str, str, str]] = []
        self.tokens = 0
        self.token_status = 200

    async def serve(self, request: web.Request) -> web.Response:
        self.asked.append((request.method, request.raw_path, request.headers.get("authorization", "")))
        answer = self.answers.pop(0)
        if not isinstance(answer, tuple):
            await answer()
            raise AssertionError
        status, body = answer
        return web.json_response(body, status=status)

    async def token(self, request: web.Request) -> web.Response:
        form = await request.post()
        said = jwt.decode(str(form["client_assertion"]), KEY.public_key(), ["ES256"], audience=f"http://{request.host}")
        assert (said["iss"], said["sub"], form["scope"]) == ("shop", "shop", "orders.read")
        self.tokens += 1
        if self.token_status != 200:
            return web.json_response({"error": "invalid_client"}, status=self.token_status)
        return web.json_response({"access_token": f"t{self.tokens}", "expires_in": 600})


@pytest.fixture
def mesh() -> Mesh:
    return Mesh()


@pytest.fixture
def key(tmp_path: Path) -> Path:
    key = tmp_path / "shop.pem"
    key.write_bytes(
        KEY.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return key


@pytest.fixture
async def orders(mesh: Mesh, key: Path) -> "AsyncIterator[OrdersAsyncStub]":
    async with client_of(mesh, ClientToken("shop", key, "orders.read", bound=False)) as orders:
        yield orders


@asynccontextmanager
async def client_of(mesh: Mesh, token: ClientToken) -> "AsyncIterator[OrdersAsyncStub]":
    app = web.Application()
    app.router.add_post("/oauth/token", mesh.token)
    app.router.add_route("*", "/{path:.*}", mesh.serve)
    async with TestServer(app) as server:
        url = f"http://{server.host}:{server.port}"
        async with Isthmus(url, token) as client:
            yield orders_pb2_grpc.OrdersStub(client.channel)


def problem(status: int, reason: str, **more: object) -> tuple[int, object]:
    return status, {"reason": reason, "detail": "d", **more}


async def test_a_call_is_sent_as_its_binding_says_and_its_answer_is_typed(
    mesh: Mesh, orders: "OrdersAsyncStub"
) -> None:
    mesh.answers = [(200, FOUND), (200, FOUND)]
    found = await orders.GetOrder(GET)
    assert isinstance(found, orders_pb2.GetOrderResponse)
    assert found.order.order_id == "o-1"
    await orders.GetOrder(GET)
    # One token for both.
    assert mesh.asked == [("GET", "/v1/orders/o-1", "Bearer t1")] * 2


async def test_a_token_that_is_refused_is_replaced_once(mesh: Mesh, orders: "OrdersAsyncStub") -> None:
    mesh.answers = [problem(401, "TOKEN_REVOKED"), (200, FOUND)]
    await orders.GetOrder(GET)
    assert [each[2] for each in mesh.asked] == ["Bearer t1", "Bearer t2"]
    mesh.answers = [problem(401, "TOKEN_INVALID"), problem(401, "TOKEN_INVALID")]
    with pytest.raises(Unauthenticated, match="TOKEN_INVALID"):
        await orders.GetOrder(GET)


class Bound(Mesh):
    """Gives tokens to whoever proves a key, and takes them with a proof of it, each with a nonce of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.nonces = {"token": "n-token", "call": "n-call"}
        self.keys: set[str] = set()

    def proven(self, request: web.Request, what: str, token: str = "") -> bool:
        text = request.headers["dpop"]
        header = jwt.get_unverified_header(text)
        said = jwt.decode(text, jwt.PyJWK(header["jwk"]).key, ["ES256"])
        ath = base64.urlsafe_b64encode(hashlib.sha256(token.encode()).digest()).rstrip(b"=").decode()
        assert (header["typ"], said.get("ath")) == ("dpop+jwt", ath if token else None)
        assert (said["htm"], said["htu"]) == (request.method, f"http://{request.host}{request.path}")
        self.keys.add(json.dumps(header["jwk"], sort_keys=True))
        return bool(said.get("nonce") == self.nonces[what])

    async def serve(self, request: web.Request) -> web.Response:
        scheme, _, token = request.headers["authorization"].partition(" ")
        assert scheme == "DPoP"
        if not self.proven(request, "call", token):
            return web.json_response({"reason": "PROOF_NONCE"}, status=401, headers={"dpop-nonce": self.nonces["call"]})
        return await super().serve(request)

    async def token(self, request: web.Request) -> web.Response:
        if not self.proven(request, "token"):
            headers = {"dpop-nonce": self.nonces["token"]}
            return web.json_response({"error": "use_dpop_nonce"}, status=400, headers=headers)
        return await super().token(request)


async def test_a_bound_token_goes_along_with_a_proof_of_its_key_and_the_nonce_of_now(key: Path) -> None:
    mesh = Bound()
    async with client_of(mesh, ClientToken("shop", key, "orders.read")) as orders:
        mesh.answers = [(200, FOUND), (200, FOUND), (200, FOUND)]
        await orders.GetOrder(GET)
        # Nonces change; the token and its key stay.
        mesh.nonces["call"] = "n-later"
        await asyncio.gather(orders.GetOrder(GET), orders.GetOrder(GET))
        assert [each[2] for each in mesh.asked] == ["DPoP t1"] * 3
        mesh.answers = [problem(401, "TOKEN_REVOKED"), (200, FOUND)]
        await orders.GetOrder(GET)
        assert mesh.asked[-1][2] == "DPoP t2"
    assert len(mesh.keys) == 1


async def test_nobody_without_a_token_calls(mesh: Mesh, orders: "OrdersAsyncStub") -> None:
    kinds: dict[int, type[MeshError]] = {401: Unauthenticated, 503: Unavailable}
    for mesh.token_status, error in kinds.items():
        with pytest.raises(error):
            await orders.GetOrder(GET)
    assert mesh.asked == []


@pytest.mark.parametrize(
    ("status", "error"), [(400, InvalidArgument), (403, PermissionDenied), (500, Internal), (418, Internal)]
)
async def test_a_refusal_has_its_type_and_reason_and_is_not_repeated(
    mesh: Mesh, orders: "OrdersAsyncStub", status: int, error: type[MeshError]
) -> None:
    mesh.answers = [problem(status, "WHY", remedy="do", errors=[{"field": "f", "rule": "r"}])]
    with pytest.raises(error) as refused:
        await orders.GetOrder(GET)
    told = refused.value
    assert (told.reason, told.message, told.remedy, told.fields[0].field) == ("WHY", "d", "do", "f")


async def test_only_what_may_be_repeated_is_while_nobody_answers(mesh: Mesh, orders: "OrdersAsyncStub") -> None:
    mesh.answers = [(503, "no problem document"), (200, FOUND)]
    await orders.GetOrder(GET)
    attempts = CONTRACT.methods["/isthmus.orders.v1.Orders/GetOrder"].retry_attempts
    mesh.answers = [problem(503, "AWAY") for _ in range(attempts)]
    with pytest.raises(Unavailable, match="AWAY"):
        await orders.GetOrder(GET)
    assert mesh.answers == []


async def test_nobody_waits_longer_than_they_said(mesh: Mesh, orders: "OrdersAsyncStub") -> None:
    async def never() -> None:
        await asyncio.Event().wait()

    mesh.answers = [never]
    with pytest.raises(DeadlineExceeded):
        await orders.GetOrder(GET, timeout=0.3)
    assert mesh.answers == []


async def test_what_is_not_for_the_outside_is_not_sent(mesh: Mesh, orders: "OrdersAsyncStub") -> None:
    with pytest.raises(Unimplemented, match="NO_BINDING"):
        await orders.SummarizeOrders(orders_pb2.SummarizeOrdersRequest())
    assert mesh.asked == []


def test_paths_queries_and_bodies_follow_the_contract() -> None:
    def sent(path: str, request: Message) -> tuple[str, str, object]:
        verb, target, body = bound(CONTRACT.methods[path].http[0], request)
        return verb, target, None if body is None else json.loads(body)

    reveal = members_pb2.RevealMemberRequest(member_id="a b/c", purpose=members_pb2.PURPOSE_SUPPORT)
    assert sent("/isthmus.members.v1.Members/RevealMember", reveal) == (
        "POST",
        "/v1/members/a%20b%2Fc:reveal",
        {"purpose": "PURPOSE_SUPPORT"},
    )
    listing = catalog_pb2.ListCampaignsRequest(page_token="a&b=c")
    assert sent("/isthmus.catalog.v1.Catalog/ListCampaigns", listing)[1] == "/v1/campaigns?page_token=a%26b%3Dc"
    with pytest.raises(InvalidArgument, match="FIELD_MISSING"):
        sent("/isthmus.members.v1.Members/GetMember", members_pb2.GetMemberRequest())
