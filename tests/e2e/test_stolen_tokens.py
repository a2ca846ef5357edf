"""What a thief finds who reads the logs, or all that lies on the public zone's machines: nothing that is of use."""

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest
from isthmus.orders.v1 import orders_pb2, orders_pb2_grpc

from chaos.load.member import FORM, authorize
from deploy.local.mesh import LocalMesh
from mesh.client.assertion import AssertionKey
from mesh.client.isthmus import Isthmus
from mesh.client.token import ClientToken
from mesh.errors import NotFound
from tests.e2e.public import JSON, bearer, problem, public_client, register, root_certificate
from tests.e2e.signin import PASSWORD, ask_for_token, create_account, redeem

pytestmark = pytest.mark.asyncio(loop_scope="session")
# Three parts of base64url, the first two JSON objects: a JWT, whatever it is for.
JWT = re.compile(rb"eyJ[A-Za-z0-9_-]{16,}\.eyJ[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}")
CHUNK = 1 << 20
OVERLAP = 16 << 10


def readable(mesh: LocalMesh) -> Iterator[Path]:
    """Every log, and every file of the processes of the public zone."""
    folders = [mesh.home.log("any").parent]
    for row in mesh.rows:
        if row.process.zone == "public":
            folders += [mesh.home.run(row.name), mesh.home.data(row.name)]
    for folder in folders:
        yield from (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def holding(mesh: LocalMesh, secrets: list[str]) -> list[tuple[Path, bytes]]:
    """The files that hold a JWT or one of these, with the beginning of what was found."""
    wanted = re.compile(b"|".join([JWT.pattern, *(re.escape(each).encode() for each in secrets)]))
    found = []
    for path in readable(mesh):
        kept = b""
        with path.open("rb") as opened:
            while chunk := opened.read(CHUNK):
                if match := wanted.search(kept + chunk):
                    found.append((path, match[0][:40]))
                    break
                kept = chunk[-OVERLAP:]
    return found


async def test_no_token_lies_in_a_log_or_on_a_machine_of_the_public_zone(mesh: LocalMesh) -> None:
    async with public_client(mesh) as client:
        member_id = await register(mesh, client, "stolen-member-1", 61)
        await create_account(mesh, client, member_id, "katherine@example.org")
        verifier, code = await authorize(client, "katherine@example.org", PASSWORD, "members.read")
        given = json.loads((await redeem(client, code, verifier)).body)
        shop = (await bearer(mesh, client, "orders.read"))["authorization"]
        # Used, refused, in the wrong place, and twice: whatever could make somebody write it down.
        good = {"authorization": f"DPoP {given['access_token']}"}
        assert (await client.send("GET", f"/v1/members/{member_id}", headers=good)).status == 200
        problem(await client.send("GET", "/v1/members/somebody-else", headers=good), 403)
        problem(await client.send("POST", "/v1/orders", b"{}", JSON | {"authorization": shop}), 403)
        problem(await client.send("GET", f"/v1/orders/{given['refresh_token']}", headers={"authorization": shop}), 400)
        problem(await client.send("GET", "/v1/orders/o", headers={"authorization": f"{shop}AAAA"}), 401)
        assert (await redeem(client, code, verifier)).status == 400
        grant = {"grant_type": "refresh_token", "client_id": "shop-web", "refresh_token": given["refresh_token"]}
        assert (await ask_for_token(client, grant)).status == 400
    secrets = [given["access_token"], given["refresh_token"], code, verifier, PASSWORD, shop.removeprefix("DPoP ")]
    assert await asyncio.to_thread(holding, mesh, secrets) == []


async def test_nobody_gets_a_token_that_a_thief_could_use(mesh: LocalMesh) -> None:
    """By default, and whoever asks; the sandbox of these tests alone may."""
    key = mesh.home.run("oauth") / "clients" / "storefront.pem"
    async with public_client(mesh) as client:
        form = AssertionKey("storefront", key).form(mesh.urls["edge_gateway"]) | {"grant_type": "client_credentials"}
        refused = await client.send("POST", "/oauth/token", urlencode(form).encode(), FORM)
        assert (refused.status, json.loads(refused.body)["error"]) == (400, "invalid_request")
        member_id = await register(mesh, client, "stolen-member-2", 62)
        await create_account(mesh, client, member_id, "lise@example.org")
        verifier, code = await authorize(client, "lise@example.org", PASSWORD, "members.read")
        form = {"grant_type": "authorization_code", "client_id": "shop-web", "code": code, "code_verifier": verifier}
        refused = await client.send("POST", "/oauth/token", urlencode(form).encode(), FORM)
        assert (refused.status, json.loads(refused.body)["error"]) == (400, "invalid_request")
        # What was missing was the proof: the code is still good.
        assert (await redeem(client, code, verifier)).status == 200


async def test_a_program_s_bound_token_is_of_no_use_without_its_key(mesh: LocalMesh) -> None:
    token = ClientToken("storefront", mesh.home.run("oauth") / "clients" / "storefront.pem", "orders.read")
    asked = orders_pb2.GetOrderRequest(order_id="0" * 36)
    async with Isthmus(mesh.urls["edge_gateway"], token, root_certificate=root_certificate(mesh)) as shop:
        orders: orders_pb2_grpc.OrdersAsyncStub = orders_pb2_grpc.OrdersStub(shop.channel)
        for _ in range(3):
            with pytest.raises(NotFound):
                await orders.GetOrder(asked)
        assert shop._session
        # As it goes by at the edge gateway: the token, and the proof of one request.
        stolen = await token.text(shop._session, mesh.urls["edge_gateway"])
        assert token.proofs
        proof = token.proofs.proof("GET", f"{mesh.urls['edge_gateway']}/v1/orders/{asked.order_id}", stolen).headers
    path = f"/v1/orders/{asked.order_id}"
    async with public_client(mesh) as thief:
        for scheme in ("Bearer", "DPoP"):
            problem(await thief.send("GET", path, headers={"authorization": f"{scheme} {stolen}"}), 401)
        shown = {"authorization": f"DPoP {stolen}", **proof}
        problem(await thief.send("GET", "/v1/orders/another", headers=shown), 401)
        # For the very request that it was made for it is good once, which was the program's.
        problem(await thief.send("GET", path, headers=shown), 404)
        assert problem(await thief.send("GET", path, headers=shown), 401)["reason"] == "PROOF_REPLAYED"
