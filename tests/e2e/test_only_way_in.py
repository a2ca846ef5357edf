"""The gateway as the only way in: what is revoked, bound, or made for somebody else is of no use."""

import asyncio
import itertools
import json
import os
import secrets
import ssl
import time
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from hashlib import sha256
from urllib.parse import parse_qs, urlencode, urlsplit

import aiohttp
import grpc
import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from isthmus.catalog.v1 import catalog_pb2, catalog_pb2_grpc
from isthmus.members.v1 import members_pb2, members_pb2_grpc

from chaos.bench.decisions import Question, inner_token, sent_by
from chaos.load.client import Answer, PublicClient
from chaos.load.member import FORM, Jar, authorize, submit
from deploy.local.mesh import LocalMesh
from mesh.channel import Channels
from mesh.client.assertion import AssertionKey
from mesh.client.isthmus import Isthmus
from mesh.client.login import Kept, SavedLogin
from mesh.contract import load
from mesh.errors import MeshError
from mesh.spiffe import SpiffeId
from mesh.tls import Identity
from security.tokens.jwk import public_jwk
from tests.e2e.command import ISTHMUS, isthmus
from tests.e2e.public import HELD, JSON, bearer, problem, public_client, register, root_certificate
from tests.e2e.signin import PASSWORD, ask_for_token, create_account, redeem

pytestmark = pytest.mark.asyncio(loop_scope="session")
# Generous, for a loaded machine: that a token which has ended is refused everywhere within 5 s is held by `make bench`.
REACHES_WITHIN_S = 30.0
PATH = "/v1/campaigns"


def credentials(mesh: LocalMesh) -> dict[str, str]:
    """Good once."""
    key = mesh.home.run("oauth") / "clients" / "storefront.pem"
    return AssertionKey("storefront", key).form(mesh.urls["edge_gateway"])


async def post(client: PublicClient, path: str, form: dict[str, str], **headers: str) -> Answer:
    return await client.send("POST", path, urlencode(form).encode(), FORM | headers)


async def refused_in_time(client: PublicClient, path: str, token: str) -> None:
    """Wait until a token that was good is refused."""
    ends = time.monotonic() + REACHES_WITHIN_S
    while (answer := await client.send("GET", path, headers={"authorization": f"DPoP {token}"})).status == 200:
        assert time.monotonic() < ends, "the revocation does not reach the gateway"
        await asyncio.sleep(0.05)
    problem(answer, 401)


async def test_a_revoked_token_is_refused_wherever_tokens_are_checked(mesh: LocalMesh) -> None:
    """By both replicas that decide and both that serve, each asked by itself; how soon, `make bench` measures."""
    async with public_client(mesh) as client:
        authorization = (await bearer(mesh, client, "catalog.read"))["authorization"]
        token = authorization.removeprefix("DPoP ")
        edge = sent_by(f"spiffe://{mesh.settings.trust_domain}/public/edge-gateway")
        path = "/isthmus.catalog.v1.Catalog/ListCampaigns"
        question = Question(path, token, edge, mesh.urls["edge_gateway"], HELD[token])
        async with as_core_gateway(mesh, "gateway") as deciding, as_core_gateway(mesh, "catalog") as serving:
            answers = [await question.ask(channel) for channel in deciding]
            assert [answer.status.code for answer in answers] == [0, 0]
            inner = [("authorization", inner_token(answer)) for answer in answers]

            async def serves(channel: grpc.aio.Channel, made: tuple[str, str]) -> bool:
                stub: catalog_pb2_grpc.CatalogAsyncStub = catalog_pb2_grpc.CatalogStub(channel)
                try:
                    await stub.ListCampaigns(catalog_pb2.ListCampaignsRequest(), metadata=(made,), timeout=10)
                except grpc.aio.AioRpcError as refused:
                    if refused.code() is grpc.StatusCode.UNAUTHENTICATED:
                        return False
                    raise
                return True

            # Either replica takes what either has made.
            assert all([await serves(channel, made) for channel in serving for made in inner])
            assert (await client.send("GET", PATH, headers={"authorization": authorization})).status == 200
            assert (await post(client, "/oauth/revoke", credentials(mesh) | {"token": token})).status == 200
            ends = time.monotonic() + REACHES_WITHIN_S
            for channel in deciding:
                while await question.allowed(channel):
                    assert time.monotonic() < ends, "the revocation does not reach the decision point"
                    await asyncio.sleep(0.05)
            for channel, made in itertools.product(serving, inner):
                while await serves(channel, made):
                    assert time.monotonic() < ends, "the revocation does not reach the service"
                    await asyncio.sleep(0.05)
        await refused_in_time(client, PATH, token)


@asynccontextmanager
async def as_core_gateway(mesh: LocalMesh, workload: str) -> AsyncIterator[list[grpc.aio.Channel]]:
    """A channel to each process of a private workload, with the core gateway's own certificate."""
    credentials_ = Identity(mesh.home.identity("core-gateway")).channel_credentials()
    options = (("grpc.ssl_target_name_override", f"{workload}.private.{mesh.settings.trust_domain}"),)
    listens = [str(row.process.listen("grpc")) for row in mesh.rows if row.process.workload == workload]
    async with AsyncExitStack() as stack:
        opened = [grpc.aio.secure_channel(listen, credentials_, options=options) for listen in listens]
        yield [await stack.enter_async_context(channel) for channel in opened]


async def test_a_refresh_token_that_is_used_again_ends_what_is_open(mesh: LocalMesh) -> None:
    async with public_client(mesh) as client:
        member_id = await register(mesh, client, "only-way-in-member-1", 21)
        await create_account(mesh, client, member_id, "barbara@example.org")
        verifier, code = await authorize(client, "barbara@example.org", PASSWORD, "members.read")
        first = json.loads((await redeem(client, code, verifier)).body)
        grant = {"grant_type": "refresh_token", "client_id": "shop-web"}
        second = json.loads((await ask_for_token(client, grant | {"refresh_token": first["refresh_token"]})).body)
        path = f"/v1/members/{member_id}"
        open_ = await client.send("GET", path, headers={"authorization": f"DPoP {second['access_token']}"})
        assert open_.status == 200
        assert (await ask_for_token(client, grant | {"refresh_token": second["refresh_token"]})).status == 200
        replay = await ask_for_token(client, grant | {"refresh_token": first["refresh_token"]})
        assert json.loads(replay.body)["error"] == "invalid_grant"
        await refused_in_time(client, path, second["access_token"])


async def test_a_bound_token_is_good_with_a_fresh_proof_of_its_key_alone(mesh: LocalMesh) -> None:
    key, thief = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    origin = mesh.urls["edge_gateway"]

    def proof(by: ec.EllipticCurvePrivateKey, verb: str, path: str, nonce: str, token: str = "") -> str:
        jwk = {name: value for name, value in public_jwk(by.public_key()).items() if name in {"kty", "crv", "x", "y"}}
        said = {"jti": secrets.token_hex(8), "htm": verb, "htu": origin + path, "iat": int(time.time()), "nonce": nonce}
        if token:
            said["ath"] = urlsafe_b64encode(sha256(token.encode()).digest()).rstrip(b"=").decode()
        return jwt.encode(said, by, "ES256", {"typ": "dpop+jwt", "jwk": jwk})

    async with public_client(mesh) as client:
        form = {"grant_type": "client_credentials", "scope": "catalog.read"}
        asked = await post(
            client, "/oauth/token", form | credentials(mesh), dpop=proof(key, "POST", "/oauth/token", "")
        )
        nonce = asked.headers["dpop-nonce"]
        given = await post(
            client, "/oauth/token", form | credentials(mesh), dpop=proof(key, "POST", "/oauth/token", nonce)
        )
        token = json.loads(given.body)["access_token"]

        async def call(scheme: str, **headers: str) -> Answer:
            return await client.send("GET", PATH, headers={"authorization": f"{scheme} {token}", **headers})

        problem(await call("Bearer"), 401)
        problem(await call("DPoP"), 401)
        first = await call("DPoP", dpop=proof(key, "GET", PATH, "", token))
        assert problem(first, 401)["reason"] == "PROOF_NONCE"
        nonce = first.headers["dpop-nonce"]
        problem(await call("DPoP", dpop=proof(thief, "GET", PATH, nonce, token)), 401)
        problem(await call("DPoP", dpop=proof(key, "POST", PATH, nonce, token)), 401)
        good = proof(key, "GET", PATH, nonce, token)
        assert (await call("DPoP", dpop=good)).status == 200
        assert problem(await call("DPoP", dpop=good), 401)["reason"] == "PROOF_REPLAYED"


async def test_a_workload_s_token_is_good_with_its_certificate_alone(mesh: LocalMesh) -> None:
    """RFC 8705 through the gateway: the operator's certificate proves it, and its token is of use to it alone."""
    path = "/v1/accounts/nobody:signOutEverywhere"
    root = mesh.home.identity("operator") / "bundle.pem"
    identity = ssl.create_default_context(cafile=str(root))
    identity.load_cert_chain(mesh.home.identity("operator") / "keypair.pem")
    inside = mesh.urls["core_gateway"]

    async with (
        public_client(mesh) as outside,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=identity)) as operator,
    ):

        async def by_operator(path: str, authorization: str) -> tuple[int, str]:
            headers = JSON | {"authorization": authorization}
            async with operator.post(inside + path, data=b"{}", headers=headers) as answer:
                return answer.status, str((await answer.json(content_type=None)).get("reason", ""))

        form = {"grant_type": "client_credentials", "client_id": "operator", "scope": "accounts.write"}
        async with operator.post(f"{inside}/oauth/token", data=form) as answer:
            assert answer.status == 200, await answer.text()
            token = f"Bearer {(await answer.json())['access_token']}"
        assert set(jwt.decode(token.split()[1], options={"verify_signature": False})["cnf"]) == {"x5t#S256"}
        assert await by_operator(path, token) == (200, "")
        # Stolen, it is of no use outside; nor is one that was not given to it of use to the operator.
        problem(await outside.send("POST", path, b"{}", JSON | {"authorization": token}), 401)
        anothers = (await bearer(mesh, outside, "accounts.write"))["authorization"]
        assert await by_operator(path, anothers) == (401, "TOKEN_INVALID")
        # Neither does the certificate open what does not name the operator.
        assert (await by_operator("/v1/accounts", token))[0] == 403
        # Nobody else gets such a token.
        assert (await post(outside, "/oauth/token", form)).status == 401


async def test_an_operator_signs_a_member_out_everywhere(mesh: LocalMesh) -> None:
    async with public_client(mesh) as client:
        member_id = await register(mesh, client, "only-way-in-member-3", 23)
        await create_account(mesh, client, member_id, "frances@example.org")
        verifier, code = await authorize(client, "frances@example.org", PASSWORD, "members.read")
        given = json.loads((await redeem(client, code, verifier)).body)
        home, port = mesh.home.root, mesh.settings.port_base
        status, _, errors = await isthmus("members", "sign-out", member_id, home=home, port_base=port)
        assert status == 0, errors
        await refused_in_time(client, f"/v1/members/{member_id}", given["access_token"])
        again = {"grant_type": "refresh_token", "client_id": "shop-web", "refresh_token": given["refresh_token"]}
        assert json.loads((await ask_for_token(client, again)).body)["error"] == "invalid_grant"


async def test_a_token_of_the_outside_opens_no_service(mesh: LocalMesh) -> None:
    """With the core gateway's own certificate, straight to the service: the token was not exchanged."""
    async with public_client(mesh) as client:
        token = (await bearer(mesh, client, "catalog.read"))["authorization"].replace("DPoP", "Bearer")
    address = next(row.process.listen("grpc") for row in mesh.rows if row.process.workload == "catalog")
    for workload, expected in (("core-gateway", "TOKEN_TYPE"), ("orders-1", "CALLER_NOT_ALLOWED")):
        channels = Channels(Identity(mesh.home.identity(workload)), load())
        try:
            stub = catalog_pb2_grpc.CatalogStub(channels.direct(str(address), SpiffeId("private", "catalog")))
            with pytest.raises(MeshError) as refused:
                await stub.ListCampaigns(catalog_pb2.ListCampaignsRequest(), metadata=(("authorization", token),))
            assert refused.value.reason == expected
        finally:
            await channels.close()


async def test_headers_that_only_gateways_write_are_worth_nothing_from_outside(mesh: LocalMesh) -> None:
    forged = {
        "x-forwarded-client-cert": f"Hash={'ab' * 32};URI=spiffe://isthmus.internal/private/operator",
        "x-envoy-original-path": "/v1/ads:decide",
        "x-envoy-auth-partial-body": "true",
        "x-isthmus-subject": "operator",
    }
    async with public_client(mesh) as client:
        problem(await client.send("GET", PATH, headers=forged), 401)
        headers = await bearer(mesh, client, "orders.read")
        problem(await client.send("GET", PATH, headers=forged | headers), 403)
        form = {"grant_type": "client_credentials", "client_id": "operator"}
        assert (await post(client, "/oauth/token", form, **forged)).status == 401
        assert (await client.send("GET", PATH, headers=JSON | await bearer(mesh, client, "catalog.read"))).status == 200


async def test_a_public_certificate_opens_no_private_port(mesh: LocalMesh) -> None:
    for row in mesh.rows:
        listen = row.process.listen("grpc")
        if row.process.zone != "private" or listen is None:
            continue
        channels = Channels(Identity(mesh.home.identity("edge-1")), load())
        try:
            channel = channels.direct(str(listen), SpiffeId("private", row.process.workload))
            with pytest.raises((grpc.aio.AioRpcError, MeshError)) as refused:
                await catalog_pb2_grpc.CatalogStub(channel).ListCampaigns(
                    catalog_pb2.ListCampaignsRequest(), timeout=2.0
                )
            assert "UNAVAILABLE" in str(getattr(refused.value, "code", ""))
        finally:
            await channels.close()


async def test_somebody_signs_in_on_the_command_line(mesh: LocalMesh) -> None:
    async with public_client(mesh) as client:
        member_id = await register(mesh, client, "only-way-in-member-2", 22)
        await create_account(mesh, client, member_id, "edsger@example.org")
        settings = {"home": mesh.home.root, "port_base": mesh.settings.port_base}
        environment = os.environ | {f"ISTHMUS_{name.upper()}": str(value) for name, value in settings.items()}
        command = await asyncio.create_subprocess_exec(
            ISTHMUS, "login", "--scope", "members.read", stdout=asyncio.subprocess.PIPE, env=environment
        )
        try:
            assert command.stdout
            said = (await asyncio.wait_for(command.stdout.readline(), 30)).decode()
            path = urlsplit(said.split()[-1])
            page = await client.send("GET", f"{path.path}?{path.query}")
            jar, code = Jar(), parse_qs(path.query)["user_code"][0]
            entered = await submit(client, page, jar, login="edsger@example.org", password=PASSWORD, user_code=code)
            assert (await submit(client, entered, jar, decision="allow", user_code=code)).status == 200
            await asyncio.wait_for(command.communicate(), 30)
            assert command.returncode == 0
        finally:
            if command.returncode is None:
                command.kill()
                await command.wait()
        kept = mesh.home.run("operator") / "login.json"
        assert kept.stat().st_mode & 0o077 == 0
    # A program of theirs, with the documented client: as that member, with the key that was kept beside the tokens.
    asked = members_pb2.GetMemberRequest(member_id=member_id)
    async with Isthmus(mesh.urls["edge_gateway"], SavedLogin(kept), root_certificate=root_certificate(mesh)) as program:
        members: members_pb2_grpc.MembersAsyncStub = members_pb2_grpc.MembersStub(program.channel)
        assert (await members.GetMember(asked)).member.member_id == member_id
    # The access token is over: it is renewed by the refresh token, which is another then.
    before = msgspec.json.decode(kept.read_bytes(), type=Kept)
    msgspec.structs.replace(before, until=0.0).write(kept)
    async with Isthmus(mesh.urls["edge_gateway"], SavedLogin(kept), root_certificate=root_certificate(mesh)) as program:
        members = members_pb2_grpc.MembersStub(program.channel)
        assert (await members.GetMember(asked)).member.member_id == member_id
    after = msgspec.json.decode(kept.read_bytes(), type=Kept)
    assert after.refresh_token != before.refresh_token
    assert after.key == before.key
    async with public_client(mesh) as client:
        headers = {"authorization": f"Bearer {after.access_token}"}
        problem(await client.send("GET", f"/v1/members/{member_id}", headers=headers), 401)
