"""Tokens over HTTP: who gets one, what is in it, and that nothing sent here makes a 5xx."""

import base64
import json
import uuid
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from isthmus.oauth.v1 import oauth_pb2, oauth_pb2_grpc

from mesh.clock import SystemClock
from mesh.errors import AlreadyExists, InvalidArgument, PermissionDenied, Unauthenticated
from security.tokens.jwk import public_jwk
from security.tokens.keys import parse_jwk
from security.tokens.verifier import TokenVerifier
from tests.integration.oauth.authorization_servers import ISSUER, OAUTH, Deployment


class Published:
    def __init__(self, jwks: list[dict[str, Any]]) -> None:
        self.keys = dict(parse_jwk(json.dumps(jwk)) for jwk in jwks)

    def held(self, kid: str) -> Any:
        return self.keys.get(kid)

    async def key(self, kid: str) -> Any:
        return self.held(kid)


def basic(client_id: str, secret: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{client_id}:{secret}".encode()).decode()}


async def test_a_token_of_one_replica_verifies_with_the_keys_of_the_other(deployment: Deployment) -> None:
    reply = deployment.token("orders.read", replica=0)
    assert reply.status == 200, reply.body
    assert reply.headers["cache-control"] == "no-store"
    assert reply.json["token_type"] == "Bearer"
    assert reply.json["expires_in"] == 600
    assert reply.json["scope"] == "orders.read"
    keys = Published(deployment.call("GET", "/oauth/jwks.json", replica=1).json["keys"])
    claims = await TokenVerifier(keys, ISSUER, "isthmus-core", SystemClock()).verify(reply.json["access_token"])
    assert (claims.subject, claims.client_id, claims.scopes) == (
        "sandbox",
        "sandbox",
        frozenset({"orders.read"}),
    )
    assert not claims.is_member


def test_the_token_is_typed_and_names_its_key(deployment: Deployment) -> None:
    head = deployment.token().json["access_token"].split(".")[0]
    header = json.loads(base64.urlsafe_b64decode(head + "=="))
    assert header["typ"] == "at+jwt"
    assert header["alg"] == "ES256"
    assert header["kid"] in {key["kid"] for key in deployment.call("GET", "/oauth/jwks.json").json["keys"]}


def test_the_client_may_authenticate_with_http_basic(deployment: Deployment) -> None:
    form = {"grant_type": "client_credentials"}
    reply = deployment.call("POST", "/oauth/token", form=form, headers=basic("sandbox", deployment.secret))
    assert reply.status == 200


def test_published_keys_hold_no_private_part(deployment: Deployment) -> None:
    keys = deployment.call("GET", "/oauth/jwks.json").json["keys"]
    assert keys
    assert all("d" not in key for key in keys)


def test_the_metadata_names_what_is_supported(deployment: Deployment) -> None:
    found = deployment.call("GET", "/.well-known/oauth-authorization-server").json
    assert found["issuer"] == ISSUER
    assert found["code_challenge_methods_supported"] == ["S256"]
    assert found["authorization_response_iss_parameter_supported"] is True
    for name, path in (
        ("token_endpoint", "token"),
        ("revocation_endpoint", "revoke"),
        ("introspection_endpoint", "introspect"),
    ):
        assert found[name] == f"{ISSUER}/oauth/{path}"
        methods = found[f"{name}_auth_methods_supported"]
        assert {"private_key_jwt", "tls_client_auth"} <= set(methods)
        # Nobody may ask about tokens without a proof (RFC 7662, section 2.1).
        assert ("none" in methods) == (path != "introspect")
    assert {"orders.write", "payments.write"} <= set(found["scopes_supported"])


GRANT = "grant_type=client_credentials"
ADA, BOB = str(uuid.uuid4()), str(uuid.uuid4())


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        ("", 400, "invalid_request"),
        ("grant_type=", 400, "invalid_request"),
        ("grant_type=password&username=a&password=b", 400, "unsupported_grant_type"),
        ("grant_type=refresh_token&refresh_token=x", 401, "invalid_client"),
        ("grant_type=refresh_token&client_id=shop-web&refresh_token=x", 400, "invalid_grant"),
        ("grant_type=refresh_token&client_id=shop-web", 400, "invalid_request"),
        (GRANT, 401, "invalid_client"),
        (f"{GRANT}&client_id=sandbox", 401, "invalid_client"),
        (f"{GRANT}&client_id=sandbox&client_secret=wrong", 401, "invalid_client"),
        (f"{GRANT}&client_id=nobody&client_secret=x", 401, "invalid_client"),
        (f"{GRANT}&client_id=%00&client_secret=x", 400, "invalid_request"),
        (f"{GRANT}&client_id=shop-web&client_secret=x", 401, "invalid_client"),
        (f"{GRANT}&client_id=shop-web", 401, "invalid_client"),
        (f"{GRANT}&{GRANT}", 400, "invalid_request"),
        (f"{GRANT}&scope=a&scope=b", 400, "invalid_request"),
        ("grant_type=%ff", 400, "invalid_request"),
        ("grant_type=%E2%82%AC", 400, "invalid_request"),
        ("grant_type", 400, "invalid_request"),
        ("&&&", 400, "invalid_request"),
        (b"\xff\xfe\x00", 400, "invalid_request"),
        ("a=1&" * 100, 400, "invalid_request"),
        ("x=" + "y" * 3000, 400, "invalid_request"),
        ("x=" + "y" * 20_000, 413, "invalid_request"),
        ("grant_type=authorization_code&client_id=shop-web&code=guess&redirect_uri=x", 400, "invalid_grant"),
        ("grant_type=authorization_code&client_id=shop-web", 400, "invalid_request"),
        ("grant_type=authorization_code&code=x", 401, "invalid_client"),
    ],
)
def test_bad_token_requests_get_an_error_of_rfc_6749(
    deployment: Deployment, body: str | bytes, status: int, error: str
) -> None:
    reply = deployment.call("POST", "/oauth/token", form=body)
    assert (reply.status, reply.json["error"]) == (status, error)
    assert reply.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "header",
    [
        "Basic",
        "Basic !!!",
        "Basic /////w==",
        "Basic YQ==",
        "Bearer x",
        "Basic " + "A" * 4000,
        "Digest a=b",
        "Basic Og==",
    ],
)
def test_malformed_credentials_are_refused(deployment: Deployment, header: str) -> None:
    reply = deployment.call("POST", "/oauth/token", form=GRANT, headers={"Authorization": header})
    assert (reply.status, reply.json["error"]) == (401, "invalid_client")
    assert "basic" in reply.headers["www-authenticate"].lower()


def test_a_client_authenticates_in_one_way_only(deployment: Deployment) -> None:
    both = {"grant_type": "client_credentials", "client_id": "sandbox", "client_secret": deployment.secret}
    reply = deployment.call("POST", "/oauth/token", form=both, headers=basic("sandbox", deployment.secret))
    assert (reply.status, reply.json["error"]) == (400, "invalid_request")


def test_a_scope_the_client_does_not_have_is_refused(deployment: Deployment) -> None:
    assert deployment.token("orders.read admin").json["error"] == "invalid_scope"


def test_other_media_types_and_parameters_in_the_query_are_refused(deployment: Deployment) -> None:
    as_json = deployment.call("POST", "/oauth/token", form="{}", headers={"Content-Type": "application/json"})
    in_query = deployment.call("POST", f"/oauth/token?{GRANT}", form=GRANT)
    assert (as_json.status, in_query.status) == (400, 400)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/oauth/token", 405), ("DELETE", "/oauth/authorize", 405), ("GET", "/", 404), ("GET", "/oauth/../x", 404)],
)
def test_wrong_methods_and_paths_get_json(deployment: Deployment, method: str, path: str, status: int) -> None:
    reply = deployment.call(method, path)
    assert reply.status == status
    assert reply.json["error"] == "invalid_request"


def test_only_the_gateway_may_speak_http(deployment: Deployment) -> None:
    with pytest.raises(OSError):
        deployment.call("GET", "/oauth/jwks.json", peer="orders-1")


async def test_a_gateways_key_that_one_replica_took_is_listed_by_the_other_as_soon_as_it_is_sought(
    deployment: Deployment,
) -> None:
    jwk = public_jwk(ec.generate_private_key(ec.SECP256R1()).public_key())
    gateway = deployment.channels("gateway")
    try:
        first, second = (
            oauth_pb2_grpc.KeysStub(gateway.direct(deployment.grpc_address(replica), OAUTH)) for replica in range(2)
        )
        await first.PublishGatewayKey(oauth_pb2.PublishGatewayKeyRequest(jwk=json.dumps(jwk)))
        listed = await second.ListKeys(oauth_pb2.ListKeysRequest(key_id=jwk["kid"]))
    finally:
        await gateway.close()
    assert jwk["kid"] in {json.loads(each)["kid"] for each in listed.gateway_jwks}


async def test_private_services_read_the_keys_and_others_do_not(deployment: Deployment) -> None:
    orders = deployment.channels("orders-1")
    try:
        stub = oauth_pb2_grpc.KeysStub(orders.direct(deployment.grpc_address(), OAUTH))
        listed = await stub.ListKeys(oauth_pb2.ListKeysRequest())
        assert [json.loads(jwk)["kid"] for jwk in listed.jwks] == [
            key["kid"] for key in deployment.call("GET", "/oauth/jwks.json").json["keys"]
        ]
        accounts = oauth_pb2_grpc.AccountsStub(orders.direct(deployment.grpc_address(), OAUTH))
        with pytest.raises(PermissionDenied):
            await accounts.CreateAccount(
                oauth_pb2.CreateAccountRequest(member_id="m1", login="someone", password="correct horse")
            )
    finally:
        await orders.close()


async def test_an_account_needs_a_token_with_the_scope_and_is_made_once(deployment: Deployment) -> None:
    gateway = deployment.channels("core-gateway")
    try:
        stub = oauth_pb2_grpc.AccountsStub(gateway.direct(deployment.grpc_address(1), OAUTH))
        ask = oauth_pb2.CreateAccountRequest(member_id=ADA, login="Ada@Example", password="correct horse")

        with pytest.raises(Unauthenticated, match="TOKEN_MISSING"):
            await stub.CreateAccount(ask)
        with pytest.raises(Unauthenticated, match="TOKEN_MALFORMED"):
            await stub.CreateAccount(ask, metadata=(("authorization", "Bearer x"),))
        # What the gateway would not have exchanged is not taken for an inner token.
        outside = deployment.token("accounts.write").json["access_token"]
        with pytest.raises(Unauthenticated, match="TOKEN_TYPE"):
            await stub.CreateAccount(ask, metadata=(("authorization", f"Bearer {outside}"),))
        with pytest.raises(PermissionDenied, match=r"accounts\.write"):
            await stub.CreateAccount(ask, metadata=await deployment.inner("orders.read"))
        good = await deployment.inner("accounts.write")
        assert (await stub.CreateAccount(ask, metadata=good)).member_id == ADA
        # Again, and in another spelling of the login: the same account.
        again = oauth_pb2.CreateAccountRequest(member_id=ADA, login="ada@example", password="correct horse")
        assert (await stub.CreateAccount(again, metadata=good)).member_id == ADA
        for other in (
            oauth_pb2.CreateAccountRequest(member_id=BOB, login="ada@example", password="correct horse"),
            oauth_pb2.CreateAccountRequest(member_id=ADA, login="bob", password="correct horse"),
            oauth_pb2.CreateAccountRequest(member_id=ADA, login="ada@example", password="another horse"),
        ):
            with pytest.raises(AlreadyExists):
                await stub.CreateAccount(other, metadata=good)
        for weak in ("short", "aaaaaaaaaaaa", "with\x00nul-inside"):
            with pytest.raises(InvalidArgument):
                await stub.CreateAccount(
                    oauth_pb2.CreateAccountRequest(member_id=str(uuid.uuid4()), login="carol", password=weak),
                    metadata=good,
                )
        for nobody in ("13955501237", "member-1"):
            with pytest.raises(InvalidArgument) as refused:
                await stub.CreateAccount(
                    oauth_pb2.CreateAccountRequest(member_id=nobody, login="carol", password="correct horse"),
                    metadata=good,
                )
            [violation] = refused.value.fields
            assert violation.field == "member_id"
            assert "register the member first" in violation.rule
    finally:
        await gateway.close()
