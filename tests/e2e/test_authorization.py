"""Who may do what: tokens at the gateway, scopes, and a member who signs in and sees their own record alone."""

import base64
import json
from collections.abc import Callable

import pytest

from chaos.load.member import authorize
from deploy.local.mesh import LocalMesh
from tests.e2e.public import HELD, JSON, bearer, problem, public_client, register
from tests.e2e.signin import PASSWORD, create_account, enrol, redeem, sign_in

pytestmark = pytest.mark.asyncio(loop_scope="session")


def with_claims(token: str, **changes: object) -> str:
    """The same token with other claims, under the old signature."""
    header, claims, signature = token.split(".")
    said = json.loads(base64.urlsafe_b64decode(claims + "=="))
    changed = base64.urlsafe_b64encode(json.dumps(said | changes).encode()).rstrip(b"=").decode()
    return f"{header}.{changed}.{signature}"


def unsigned(token: str) -> str:
    header = base64.urlsafe_b64encode(b'{"alg":"none","typ":"at+jwt"}').rstrip(b"=").decode()
    return f"{header}.{token.split('.')[1]}."


async def test_a_sensitive_call_without_a_token_is_refused(mesh: LocalMesh) -> None:
    async with public_client(mesh) as client:
        for method, path in (("POST", "/v1/orders"), ("GET", "/v1/orders/o"), ("PUT", "/v1/campaigns/c")):
            answer = await client.send(method, path, b"{}", JSON)
            problem(answer, 401)
            assert "bearer" in answer.headers["www-authenticate"].lower()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda token: "nonsense",
        lambda token: "",
        lambda token: token[:-4] + "AAAA",
        lambda token: with_claims(token, scope="orders.write payments.write"),
        lambda token: with_claims(token, exp=4_000_000_000),
        unsigned,
    ],
    ids=["nonsense", "empty", "another signature", "more scopes", "later end", "alg none"],
)
async def test_a_bad_token_is_refused(mesh: LocalMesh, spoil: Callable[[str], str]) -> None:
    async with public_client(mesh) as client:
        good = (await bearer(mesh, client, "orders.write"))["authorization"].removeprefix("DPoP ")
        spoilt = spoil(good)
        # All else is right.
        HELD[spoilt] = HELD[good]
        headers = JSON | {"authorization": f"DPoP {spoilt}"}
        problem(await client.send("POST", "/v1/orders", b"{}", headers), 401)


async def test_a_token_without_the_scope_is_refused(mesh: LocalMesh) -> None:
    async with public_client(mesh) as client:
        headers = await bearer(mesh, client, "orders.read")
        answer = await client.send("PUT", "/v1/content-items/about/en", b'{"title":"About"}', headers)
        assert "catalog.write" in json.dumps(problem(answer, 403))


async def test_a_client_is_no_member(mesh: LocalMesh) -> None:
    async with public_client(mesh) as client:
        member_id = await register(mesh, client, "authorization-member-1", 11)
        headers = await bearer(mesh, client, "members.read")
        problem(await client.send("GET", f"/v1/members/{member_id}", headers=headers), 403)


async def test_a_member_signs_in_and_reads_their_own_record_alone(mesh: LocalMesh) -> None:
    async with public_client(mesh) as client:
        own = await register(mesh, client, "authorization-member-1", 11)
        other = await register(mesh, client, "authorization-member-2", 12)
        await create_account(mesh, client, own, "ada@example.org")
        scopes = "members.read members.reveal"
        headers = {"authorization": f"DPoP {await sign_in(client, 'ada@example.org', scopes)}"}
        answer = await client.send("GET", f"/v1/members/{own}", headers=headers)
        assert answer.status == 200, answer.body
        masked = json.loads(answer.body)["member"]
        assert (masked["phone"], masked["name"]) == ("137****0011", "A*")
        body = b'{"purpose": "PURPOSE_ACCOUNT"}'
        refused = await client.send("POST", f"/v1/members/{own}:reveal", body, headers | JSON)
        assert "STEP_UP_REQUIRED" in json.dumps(problem(refused, 401))
        password = await enrol(mesh, client, own)
        proven = {"authorization": f"DPoP {await sign_in(client, 'ada@example.org', scopes, second=password)}"}
        answer = await client.send("POST", f"/v1/members/{own}:reveal", body, proven | JSON)
        assert answer.status == 200, answer.body
        member = json.loads(answer.body)["member"]
        assert (member["phone"], member["name"], member["address"]) == ("+8613700000011", "Ada Example", "1 Test Road")
        problem(await client.send("GET", f"/v1/members/{other}", headers=headers), 403)
        refused = await client.send("GET", "/v1/members/nobody", headers=headers)
        problem(refused, 403)


async def test_a_member_cannot_order_for_another(mesh: LocalMesh) -> None:
    async with public_client(mesh) as client:
        own = await register(mesh, client, "authorization-member-3", 13)
        other = await register(mesh, client, "authorization-member-4", 14)
        await create_account(mesh, client, own, "grace@example.org")
        headers = JSON | {"authorization": f"DPoP {await sign_in(client, 'grace@example.org', 'orders.write')}"}
        line = {"sku": "cd", "quantity": 1, "amount": {"minor": 1, "currency": "USD"}}
        for member_id, status in ((own, 200), (other, 403)):
            order = {"idempotency_key": f"order-of-{member_id}", "member_id": member_id, "lines": [line]}
            answer = await client.send("POST", "/v1/orders", json.dumps(order).encode(), headers)
            assert answer.status == status, answer.body


async def test_a_code_is_good_once_and_for_its_verifier_alone(mesh: LocalMesh) -> None:
    async with public_client(mesh) as client:
        member_id = await register(mesh, client, "authorization-member-5", 15)
        await create_account(mesh, client, member_id, "alan@example.org")
        verifier, code = await authorize(client, "alan@example.org", PASSWORD, "members.read")
        assert (await redeem(client, code, "a" * 64)).status == 400
        verifier, code = await authorize(client, "alan@example.org", PASSWORD, "members.read")
        assert (await redeem(client, code, verifier)).status == 200
        assert (await redeem(client, code, verifier)).status == 400


async def test_the_operators_reports_have_no_way_in_from_outside(mesh: LocalMesh) -> None:
    async with public_client(mesh) as client:
        headers = await bearer(mesh, client, "orders.read")
        for path in ("/isthmus.warehouse.v1.Warehouse/ReportTraffic", "/isthmus.orders.v1.Orders/SummarizeOrders"):
            problem(await client.send("POST", path, b"{}", headers), 404)
            # gRPC says it in trailers, under 200.
            assert not (await client.send("POST", path, bytes(5), headers | {"content-type": "application/grpc"})).body
