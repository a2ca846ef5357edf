"""Whatever the public sends: a problem document that helps, and nothing from inside."""

import asyncio
import json
import secrets
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import pytest

from chaos.load.client import Answer
from deploy.local.mesh import LocalMesh
from tests.e2e.public import JSON, bearer, problem, public_client, register, root_certificate

pytestmark = pytest.mark.asyncio(loop_scope="session")
ADS = "/v1/ads:decide"
KIB = 1 << 10


@dataclass(frozen=True)
class Bad:
    name: str
    status: int
    method: str
    path: str
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


PUBLIC = (
    Bad("malformed JSON", 400, "POST", ADS, b'{"slot":', JSON),
    Bad("bad UTF-8", 400, "POST", ADS, b'{"slot":"\xff\xfe"}', JSON),
    Bad("not an object", 400, "POST", ADS, b"[]", JSON),
    Bad("nothing", 400, "POST", ADS, b"", JSON),
    Bad("deep nesting", 400, "POST", ADS, b"[" * 10_000, JSON),
    Bad("unknown field", 400, "POST", ADS, b'{"slot":"position-1","price":1}', JSON),
    Bad("missing slot", 400, "POST", ADS, b"{}", JSON),
    Bad("slot of another alphabet", 400, "POST", ADS, b'{"slot":"Position 1"}', JSON),
    Bad("slot too long", 400, "POST", ADS, b'{"slot":"%b"}' % (b"a" * 65), JSON),
    Bad("features of numbers", 400, "POST", ADS, b'{"slot":"position-1","features":{"a":[1]}}', JSON),
    Bad("negative time", 400, "POST", ADS, b'{"slot":"position-1","source_time_us":-1}', JSON),
    Bad("overflowing time", 400, "POST", ADS, b'{"slot":"position-1","source_time_us":9223372036854775808}', JSON),
    Bad("no content type", 415, "POST", ADS, b'{"slot":"position-1"}', {"content-type": "text/plain"}),
    Bad("huge body", 413, "POST", ADS, b'{"slot":"%b"}' % (b"a" * 1000 * KIB), JSON),
    Bad("wrong method", 405, "DELETE", ADS),
    Bad("wrong method on a page", 405, "DELETE", "/v1/content/men-position-1"),
    Bad("unknown path", 404, "GET", "/v1/nothing"),
    Bad("path outside", 404, "GET", "/v1/content/../../etc/passwd"),
    Bad("unknown page", 404, "GET", "/v1/content/no-such-page"),
    Bad("page of another alphabet", 400, "GET", "/v1/content/%C3%A4"),
    Bad("bad locale", 400, "GET", "/v1/content/men-position-1?locale=..%2F"),
    Bad("unknown parameter", 400, "GET", "/v1/content/men-position-1?debug=1"),
    Bad("unknown slot", 404, "POST", ADS, b'{"slot":"no-such-slot"}', JSON),
    Bad(
        "receipt of no step", 400, "POST", "/v1/receipts", b'{"slug":"a","delivery_id":"%032d","step":"READ"}' % 0, JSON
    ),
    Bad("malformed click", 400, "GET", "/v1/clicks/AAAA.BBBB"),
    Bad("click without token", 404, "GET", "/v1/clicks/"),
)


@pytest.mark.parametrize("bad", PUBLIC, ids=lambda bad: bad.name)
async def test_bad_public_requests_are_refused_with_a_problem(mesh: LocalMesh, bad: Bad) -> None:
    async with public_client(mesh) as client:
        problem(await client.send(bad.method, bad.path, bad.body, bad.headers), bad.status)


async def test_a_forged_click_is_refused_and_leads_nowhere(mesh: LocalMesh, slot: str) -> None:
    async with public_client(mesh) as client:
        decision = json.loads((await client.send("POST", ADS, json.dumps({"slot": slot}).encode(), JSON)).body)
        url = decision["click_url"]
        # The last characters but one: the very last may hold bits that count for nothing.
        forged = url[:-4] + ("AA" if url[-4:-2] != "AA" else "BB") + url[-2:]
        refused = await client.send("GET", forged)
        problem(refused, 403)
        assert "location" not in refused.headers
        assert (await client.send("GET", url)).status == 302


async def test_a_405_says_what_is_allowed(mesh: LocalMesh) -> None:
    async with public_client(mesh) as client:
        answer = await client.send("DELETE", ADS)
    assert answer.headers["allow"] == "GET, HEAD, POST"


async def test_huge_headers_are_refused_with_a_problem(mesh: LocalMesh) -> None:
    async with public_client(mesh) as client:
        problem(await client.send("GET", "/v1/content/x", headers={"x-long": "a" * 60_000}), 431)


async def test_many_headers_are_refused_with_a_problem(mesh: LocalMesh) -> None:
    many = {f"x-header-{n}": "a" for n in range(200)}
    async with public_client(mesh) as client:
        problem(await client.send("GET", "/v1/content/x", headers=many), 431)


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"NONSENSE\r\n\r\n",
        b"POST /v1/ads:decide HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\n"
        b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET /v1/content/\x00 HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\nx y: 1\r\n\r\n",
    ],
    ids=["no host", "no HTTP", "smuggled length", "zero byte", "bad header name"],
)
async def test_bytes_that_are_no_request_get_a_400_or_the_door(mesh: LocalMesh, request_bytes: bytes) -> None:
    url = urlsplit(mesh.urls["edge_gateway"])
    context = ssl.create_default_context(cafile=str(root_certificate(mesh)))
    reader, writer = await asyncio.open_connection(url.hostname, url.port, ssl=context)
    try:
        writer.write(request_bytes)
        answer = await asyncio.wait_for(reader.read(4096), 20)
    finally:
        writer.close()
    assert not answer or answer.split(b" ", 2)[1] in (b"400", b"404"), answer
    assert b"Traceback" not in answer


def order(**changes: object) -> dict[str, object]:
    amount = {"minor": 1000, "currency": "USD"}
    line = {"sku": "cd", "quantity": 1, "amount": amount}
    return {"idempotency_key": secrets.token_hex(8), "member_id": "m", "lines": [line]} | changes


def lines(minor: object = 1000, currency: object = "USD", quantity: object = 1) -> list[dict[str, object]]:
    return [{"sku": "cd", "quantity": quantity, "amount": {"minor": minor, "currency": currency}}]


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("unknown field", order(discount=1)),
        ("negative amount", order(lines=lines(minor=-1))),
        ("overflowing amount", order(lines=lines(minor=2**63))),
        ("sum that overflows", order(lines=lines(minor=2**62) * 3)),
        ("amount with decimals", order(lines=lines(minor=1.5))),
        ("unknown currency", order(lines=lines(currency="XXQ"))),
        ("currency in lower case", order(lines=lines(currency="usd"))),
        ("two currencies", order(lines=lines() + lines(currency="EUR"))),
        ("no lines", order(lines=[])),
        ("no pieces", order(lines=lines(quantity=0))),
        ("short key", order(idempotency_key="short")),
        ("negative time", order(source_time_us=-1)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_bad_orders_are_refused_with_a_problem(mesh: LocalMesh, name: str, body: dict[str, object]) -> None:
    async with public_client(mesh) as client:
        if body["member_id"] == "m":
            body = body | {"member_id": await register(mesh, client, "bad-orders-member", 1)}
        headers = await bearer(mesh, client, "orders.write")
        problem(await client.send("POST", "/v1/orders", json.dumps(body).encode(), headers), 400)


@pytest.mark.parametrize("body", [b'{"slot":', b'{"a":"\xff"}', b"[1]", b""])
async def test_orders_that_are_no_json_are_refused_with_a_problem(mesh: LocalMesh, body: bytes) -> None:
    async with public_client(mesh) as client:
        problem(await client.send("POST", "/v1/orders", body, await bearer(mesh, client, "orders.write")), 400)


async def test_the_same_key_and_body_give_the_same_order(mesh: LocalMesh) -> None:
    async with public_client(mesh) as client:
        body = order(member_id=await register(mesh, client, "bad-orders-member", 1))
        answers = await place_twice(mesh, body, body)
    assert [answer.status for answer in answers] == [200, 200]
    first, second = (json.loads(answer.body)["order"] for answer in answers)
    assert first == second


async def test_the_same_key_with_another_body_is_refused(mesh: LocalMesh) -> None:
    async with public_client(mesh) as client:
        body = order(member_id=await register(mesh, client, "bad-orders-member", 1))
        _, second = await place_twice(mesh, body, body | {"lines": lines(minor=1)})
    assert second.status in (400, 409)
    problem(second, second.status)


async def test_an_order_of_nobody_is_refused(mesh: LocalMesh) -> None:
    async with public_client(mesh) as client:
        headers = await bearer(mesh, client, "orders.write")
        answer = await client.send("POST", "/v1/orders", json.dumps(order(member_id="nobody")).encode(), headers)
    assert 400 <= answer.status < 500
    problem(answer, answer.status)


@pytest.mark.parametrize("phone", ["12", "+86 000", "not a phone", "+1" + "9" * 25])
async def test_a_bad_phone_is_refused_and_not_repeated(mesh: LocalMesh, phone: str) -> None:
    person = {"idempotency_key": secrets.token_hex(8), "phone": phone, "name": "Eve Secret", "address": "9 Hidden Way"}
    async with public_client(mesh) as client:
        headers = await bearer(mesh, client, "members.write")
        answer = await client.send("POST", "/v1/members", json.dumps(person).encode(), headers)
    problem(answer, 400)
    assert not any(text.encode() in answer.body for text in (phone, "Eve", "Hidden"))


async def place_twice(mesh: LocalMesh, *bodies: dict[str, object]) -> list[Answer]:
    async with public_client(mesh) as client:
        headers = await bearer(mesh, client, "orders.write")
        return [await client.send("POST", "/v1/orders", json.dumps(body).encode(), headers) for body in bodies]
