"""Every method by which a member could reach what is another's, found by walking the contract, and tried."""

import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from chaos.load.client import Answer, PublicClient
from deploy.local.mesh import LocalMesh
from mesh.contract import MethodPolicy, load
from security.oauth.seed import SHOP_WEB_SCOPES
from tests.e2e.public import JSON, bearer, problem, public_client, register
from tests.e2e.signin import create_account, enrol, sign_in

pytestmark = pytest.mark.asyncio(loop_scope="session")


@dataclass(frozen=True)
class Belongings:
    """What one member has."""

    member: str
    phone: str
    # Orders: to be cancelled, to be paid, and paid.
    order: str
    unpaid: str
    paid: str
    # A part of it was taken: any more can be taken, given back or released.
    payment: str


@dataclass(frozen=True)
class Try:
    """A call that is right but for whose data it is about."""

    # The request's field that says so.
    field: str
    # What it is tried on, by the names of Belongings. On the first of them it succeeds for whom it belongs to.
    on: tuple[str, ...]
    body: Mapping[str, Any]
    # May be repeated only with the same body; so each call gets its own.
    keyed: bool = False
    for_systems: bool = False


def usd(minor: int) -> dict[str, Any]:
    return {"minor": minor, "currency": "USD"}


LINE = {"sku": "cd", "quantity": 1, "amount": usd(100)}
# In an order in which each succeeds. A method that is not here fails the test.
TRIED: Mapping[str, Try] = {
    "isthmus.members.v1.Members.GetMember": Try("member_id", ("member",), {}),
    "isthmus.members.v1.Members.RevealMember": Try("member_id", ("member",), {"purpose": "PURPOSE_ACCOUNT"}),
    "isthmus.members.v1.Members.ExportMember": Try("member_id", ("member",), {}),
    "isthmus.members.v1.Identities.ResolveIdentifier": Try(
        "value", ("phone",), {"kind": "IDENTIFIER_KIND_PHONE"}, for_systems=True
    ),
    "isthmus.orders.v1.Orders.PlaceOrder": Try("member_id", ("member",), {"lines": [LINE]}, keyed=True),
    "isthmus.orders.v1.Orders.GetOrder": Try("order_id", ("order", "paid"), {}),
    "isthmus.orders.v1.Orders.CancelOrder": Try("order_id", ("order", "paid"), {}),
    "isthmus.payments.v1.Payments.AuthorizePayment": Try(
        "order_id", ("unpaid", "paid"), {"amount": usd(100)}, keyed=True
    ),
    "isthmus.payments.v1.Payments.GetPayment": Try("payment_id", ("payment",), {}),
    "isthmus.payments.v1.Payments.CapturePayment": Try("payment_id", ("payment",), {"amount": usd(10)}, keyed=True),
    "isthmus.payments.v1.Payments.RefundPayment": Try("payment_id", ("payment",), {"amount": usd(10)}, keyed=True),
    "isthmus.payments.v1.Payments.VoidPayment": Try("payment_id", ("payment",), {}, keyed=True),
}
# Takes nothing but what the provider has signed.
NOBODYS = {"isthmus.payments.v1.ProviderNotifications.ForwardWechat"}
# A member's app gets no token for the others.
REACHED = {
    method.full_name: method
    for method in load().methods.values()
    if method.http and method.scopes and method.scopes <= SHOP_WEB_SCOPES
}


async def post(client: PublicClient, path: str, body: object, headers: dict[str, str]) -> Any:
    answer = await client.send("POST", path, json.dumps(body).encode(), headers)
    assert answer.status == 200, answer.body
    return json.loads(answer.body)


async def belongings(client: PublicClient, member: str, phone: str, shop: dict[str, str]) -> Belongings:
    async def place() -> str:
        order = {"idempotency_key": str(uuid.uuid4()), "member_id": member, "lines": [LINE]}
        return str((await post(client, "/v1/orders", order, shop))["order"]["order_id"])

    paid = await place()
    hold = {"idempotency_key": str(uuid.uuid4()), "order_id": paid, "amount": usd(100)}
    payment = (await post(client, "/v1/payments", hold, shop))["payment"]["payment_id"]
    part = {"idempotency_key": str(uuid.uuid4()), "amount": usd(40)}
    await post(client, f"/v1/payments/{payment}:capture", part, shop)
    return Belongings(member, phone, order=await place(), unpaid=await place(), paid=paid, payment=payment)


async def call(client: PublicClient, tried: Try, method: MethodPolicy, whose: str, headers: dict[str, str]) -> Answer:
    rule = method.http[0]
    body = dict(tried.body)
    if tried.keyed:
        body["idempotency_key"] = str(uuid.uuid4())
    if "{" not in rule.template:
        body[tried.field] = whose
    path = re.sub(r"\{[^}]+\}", whose, rule.template)
    return await client.send(rule.verb, path, json.dumps(body).encode() if rule.body else None, headers)


async def refused(
    client: PublicClient, tried: Try, method: MethodPolicy, whose: str, headers: dict[str, str]
) -> dict[str, Any]:
    answer = await call(client, tried, method, whose, headers)
    assert answer.status in (403, 404), (method.full_name, answer.status, answer.body)
    return problem(answer, answer.status)


async def everything(client: PublicClient, theirs: Belongings, shop: dict[str, str]) -> list[bytes]:
    paths = [f"/v1/orders/{order}" for order in (theirs.order, theirs.unpaid, theirs.paid)]
    found = [await client.send("GET", path, headers=shop) for path in (*paths, f"/v1/payments/{theirs.payment}")]
    assert [answer.status for answer in found] == [200] * 4, found
    return [answer.body for answer in found]


async def test_no_method_shows_or_changes_what_is_another_members(mesh: LocalMesh) -> None:
    assert REACHED.keys() == TRIED.keys() | NOBODYS
    async with public_client(mesh) as client:
        shop = await bearer(mesh, client, "orders.write orders.read payments.write payments.read")
        hers, adas = [
            await belongings(client, await register(mesh, client, f"others-{n}", n), f"+86137{n:08}", shop)
            for n in (71, 72)
        ]
        nobodys = Belongings(str(uuid.uuid4()), "+8613700000079", *(str(uuid.uuid4()) for _ in range(4)))
        before = await everything(client, adas, shop)
        # Both factors, just now, and every scope that her app may have: nothing is missing but that it is hers.
        await create_account(mesh, client, hers.member, "eve@example.org")
        second = await enrol(mesh, client, hers.member)
        token = await sign_in(client, "eve@example.org", " ".join(sorted(SHOP_WEB_SCOPES)), second=second)
        headers = JSON | {"authorization": f"DPoP {token}"}
        for name, tried in TRIED.items():
            for kind in tried.on:
                found = await refused(client, tried, REACHED[name], getattr(adas, kind), headers)
                # Nobody learns whether there is such a thing.
                unknown = await refused(client, tried, REACHED[name], getattr(nobodys, kind), headers)
                assert found == unknown, (name, kind)
        assert await everything(client, adas, shop) == before
        # What was tried is what she may do, were it hers.
        for name, tried in TRIED.items():
            answer = await call(client, tried, REACHED[name], getattr(hers, tried.on[0]), headers)
            assert answer.status == (403 if tried.for_systems else 200), (name, answer.body)
