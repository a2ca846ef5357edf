"""How clients prove themselves without a secret, and what guessing costs."""

import json
import secrets
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import create_engine

from security.oauth.domain import Authentication, Client
from security.oauth.logins import Logins
from security.oauth.passwords import PasswordChecker
from security.oauth.protocol import CLIENT_CREDENTIALS
from security.oauth.store import Store
from security.oauth.transactions import Transactions
from security.tokens.jwk import public_jwk
from tests.integration.oauth.authorization_servers import ISSUER, Deployment, Reply

KEY = ec.generate_private_key(ec.SECP256R1())
SECRET = "correct horse battery"
SPIFFE_ID = "spiffe://isthmus.internal/private/operator"
CERTIFICATE = "ab" * 32
THUMBPRINT = "q6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6s"


@pytest.fixture(scope="module", autouse=True)
def clients(deployment: Deployment) -> None:
    engine = create_engine(deployment.url)
    store = Store(Transactions(engine), Logins(bytes(32)))
    grants, scopes = frozenset({CLIENT_CREDENTIALS}), frozenset({"orders.read"})
    jwks = json.dumps({"keys": [public_jwk(KEY.public_key())]})
    store.put_client(Client("signer", "Signer", None, grants, scopes, (), Authentication.PRIVATE_KEY_JWT, jwks=jwks))
    store.put_client(Client("holder", "Holder", None, grants, scopes, (), Authentication.TLS, spiffe_id=SPIFFE_ID))
    secret_hash = PasswordChecker().hash(SECRET)
    careful = Client("careful", "Careful", secret_hash, grants, scopes, (), Authentication.CLIENT_SECRET, bound=True)
    store.put_client(careful)
    engine.dispose()


def assertion(key: ec.EllipticCurvePrivateKey = KEY, header: dict[str, Any] | None = None, **changes: Any) -> str:
    now = int(time.time())
    claims = {"iss": "signer", "sub": "signer", "aud": ISSUER, "exp": now + 60, "iat": now, "jti": secrets.token_hex(8)}
    wanted = {name: value for name, value in (claims | changes).items() if value is not ...}
    return jwt.encode(wanted, key, "ES256", {"kid": public_jwk(KEY.public_key())["kid"]} | (header or {}))


def signed(deployment: Deployment, text: str, replica: int = 0, **changes: str) -> Reply:
    form = {
        "grant_type": CLIENT_CREDENTIALS,
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        "client_assertion": text,
    }
    return deployment.call("POST", "/oauth/token", form=form | changes, replica=replica)


def test_a_signed_assertion_proves_a_client_once(deployment: Deployment) -> None:
    text = assertion()
    assert signed(deployment, text).status == 200
    # On the other replica too.
    assert signed(deployment, text, replica=1).json["error"] == "invalid_client"
    assert signed(deployment, assertion(aud=f"{ISSUER}/oauth/token"), client_id="signer").status == 200


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": "https://elsewhere.example"},
        {"aud": ...},
        {"exp": ...},
        {"exp": 1},
        {"exp": int(time.time()) + 86_400},
        {"iss": "sandbox"},
        {"sub": "sandbox"},
        {"iss": "holder", "sub": "holder"},
        {"sub": ...},
        {"jti": ...},
        {"jti": "x" * 300},
        {"key": ec.generate_private_key(ec.SECP256R1())},
        {"header": {"jku": "https://evil.example/keys"}},
        {"header": {"jwk": public_jwk(KEY.public_key())}},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_a_wrong_assertion_proves_nobody(deployment: Deployment, changes: dict[str, Any]) -> None:
    reply = signed(deployment, assertion(**changes))
    assert (reply.status, reply.json["error"]) == (401, "invalid_client")


def test_an_assertion_beside_another_id_or_a_secret_is_refused(deployment: Deployment) -> None:
    assert signed(deployment, assertion(), client_id="sandbox").json["error"] == "invalid_client"
    both = signed(deployment, assertion(), client_id="signer", client_secret="x")
    assert both.json["error"] == "invalid_request"


def holder(deployment: Deployment, certificate: str, **changes: str) -> Reply:
    form = {"grant_type": CLIENT_CREDENTIALS, "client_id": "holder"} | changes
    headers = {"x-forwarded-client-cert": certificate} if certificate else {}
    return deployment.call("POST", "/oauth/token", form=form, headers=headers)


def test_a_certificate_proves_a_client_and_its_token_is_bound_to_it(deployment: Deployment) -> None:
    reply = holder(deployment, f"By=spiffe://isthmus.internal/private/core-gateway;Hash={CERTIFICATE};URI={SPIFFE_ID}")
    assert reply.status == 200, reply.body
    claims = jwt.decode(reply.json["access_token"], options={"verify_signature": False})
    assert claims["cnf"] == {"x5t#S256": THUMBPRINT}


@pytest.mark.parametrize(
    "certificate",
    [
        "",
        f"Hash={CERTIFICATE};URI=spiffe://isthmus.internal/public/edge-gateway",
        f"Hash={CERTIFICATE};URI=spiffe://isthmus.internal/public/operator",
        f"URI={SPIFFE_ID}",
        f"Hash=short;URI={SPIFFE_ID}",
        # What stands before the gateway's own element was said by somebody else.
        f"Hash={CERTIFICATE};URI={SPIFFE_ID},Hash={CERTIFICATE};URI=spiffe://isthmus.internal/public/edge-gateway",
    ],
)
def test_another_certificate_proves_nobody(deployment: Deployment, certificate: str) -> None:
    reply = holder(deployment, certificate)
    assert (reply.status, reply.json["error"]) == (401, "invalid_client")


def test_a_token_is_for_this_resource_alone(deployment: Deployment) -> None:
    assert signed(deployment, assertion(), resource=ISSUER).status == 200
    reply = signed(deployment, assertion(), resource="https://elsewhere.example")
    assert (reply.status, reply.json["error"]) == (400, "invalid_target")


def test_guessing_a_secret_gets_slower_for_who_guesses_alone(deployment: Deployment) -> None:
    def guess(address: str) -> Reply:
        form = {"grant_type": CLIENT_CREDENTIALS, "client_id": "sandbox", "client_secret": "wrong"}
        return deployment.call("POST", "/oauth/token", form=form, headers={"x-forwarded-for": f"{address}, 127.0.0.1"})

    statuses = [guess("198.51.100.7").status for _ in range(15)]
    assert statuses[:10] == [401] * 10
    refused = guess("198.51.100.7")
    assert (refused.status, int(refused.headers["retry-after"]) >= 1) == (429, True)
    # The client itself, elsewhere, is not shut out.
    assert guess("198.51.100.8").status == 401
    assert deployment.token("orders.read").status == 200


def proof(key: ec.EllipticCurvePrivateKey, nonce: str, **changes: Any) -> dict[str, str]:
    point = {name: value for name, value in public_jwk(key.public_key()).items() if name in {"kty", "crv", "x", "y"}}
    said = {"jti": secrets.token_hex(8), "htm": "POST", "htu": f"{ISSUER}/oauth/token", "iat": int(time.time())}
    text = jwt.encode(said | {"nonce": nonce} | changes, key, "ES256", {"typ": "dpop+jwt", "jwk": point})
    return {"dpop": text}


def test_a_token_is_bound_to_the_key_whose_proof_came_with_the_request(deployment: Deployment) -> None:
    form = {"grant_type": CLIENT_CREDENTIALS, "client_id": "sandbox", "client_secret": deployment.secret}

    def ask(headers: dict[str, str], replica: int = 0) -> Reply:
        return deployment.call("POST", "/oauth/token", form=form, headers=headers, replica=replica)

    first = ask(proof(KEY, ""))
    assert (first.status, first.json["error"]) == (400, "use_dpop_nonce")
    # A nonce of one replica is good on the other, a proof on neither twice.
    headers = proof(KEY, first.headers["dpop-nonce"])
    bound = ask(headers, replica=1)
    assert (bound.status, bound.json["token_type"]) == (200, "DPoP")
    claims = jwt.decode(bound.json["access_token"], options={"verify_signature": False})
    assert claims["cnf"] == {"jkt": public_jwk(KEY.public_key())["kid"]}
    assert ask(headers).json["error"] == "invalid_dpop_proof"
    for wrong in ({"htm": "GET"}, {"htu": f"{ISSUER}/oauth/revoke"}, {"iat": 1}, {"ath": "x"}):
        assert ask(proof(KEY, first.headers["dpop-nonce"], **wrong)).json["error"] == "invalid_dpop_proof"


def test_a_client_whose_tokens_are_bound_gets_no_other(deployment: Deployment) -> None:
    form = {"grant_type": CLIENT_CREDENTIALS, "client_id": "careful", "client_secret": SECRET}

    def ask(headers: dict[str, str] | None = None) -> Reply:
        return deployment.call("POST", "/oauth/token", form=form, headers=headers)

    refused = ask()
    assert (refused.status, refused.json["error"]) == (400, "invalid_request")
    nonce = ask(proof(KEY, "")).headers["dpop-nonce"]
    given = ask(proof(KEY, nonce))
    assert (given.status, given.json["token_type"]) == (200, "DPoP")
