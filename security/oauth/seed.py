"""The clients that every mesh begins with: the shop's back end, its browser app, the command line, and the workloads
that the contract lets call with a token.
"""

import fcntl
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from mesh.contract import Contract
from mesh.errors import FailedPrecondition
from mesh.files import DIRECTORY_MODE, PRIVATE_MODE, read_key_file, write_file
from mesh.spiffe import SpiffeId
from security.oauth import openid
from security.oauth.device import DEVICE_CODE
from security.oauth.domain import Authentication, Client
from security.oauth.passwords import PasswordChecker
from security.oauth.protocol import AUTHORIZATION_CODE, CLIENT_CREDENTIALS, REFRESH_TOKEN
from security.oauth.store import Store
from security.tokens.jwk import public_jwk

STOREFRONT = "storefront"
SANDBOX = "sandbox"
SHOP_WEB = "shop-web"
COMMAND_LINE = "isthmus-cli"
SHOP_WEB_SCOPES = frozenset(
    {"members.read", "members.reveal", "orders.read", "orders.write", "payments.read", "payments.write"}
)


def workloads_of(contract: Contract) -> Mapping[str, frozenset[str]]:
    """The workloads that come through the core gateway by their own name, with the scopes that they need there."""
    served = {service.workload for service in contract.services.values()} | {"core-gateway", "edge-gateway"}
    found: dict[str, frozenset[str]] = {}
    for method in contract.methods.values():
        for caller in method.callers - served if method.scopes else ():
            found[caller] = found.get(caller, frozenset()) | method.scopes
    return found


def scopes_of(contract: Contract) -> frozenset[str]:
    """Every scope that some method asks for."""
    return frozenset(scope for method in contract.methods.values() for scope in method.scopes)


def member_scopes(contract: Contract) -> frozenset[str]:
    """What a member's token may hold, whichever app it was given to."""
    return SHOP_WEB_SCOPES & scopes_of(contract)


def scopes_of_clients(contract: Contract) -> Mapping[str, frozenset[str]]:
    """What a token may hold with which a client of the outside calls in its own name."""
    return dict.fromkeys((STOREFRONT, SANDBOX), scopes_of(contract))


def seed(
    store: Store,
    passwords: PasswordChecker,
    contract: Contract,
    trust_domain: str,
    directory: Path,
    callback: str,
    *,
    sandbox: bool = False,
    sandbox_callback: str = "",
    bearer: frozenset[str] = frozenset(),
) -> None:
    """Register the clients, or bring them up to date. The replicas take turns; keys and secrets are made once and kept.

    sandbox: also a client with a shared secret, for trying things out. Without it there is none.
    sandbox_callback: where it may have members sent back to, if it signs them in here.
    bearer: the ids of those whose tokens need not be bound to a key. Of the sandbox, none need.
    """
    directory.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
    descriptor = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT, PRIVATE_MODE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        known, members = scopes_of(contract), member_scopes(contract)
        for client in (
            _program(STOREFRONT, "Storefront", known, _public_keys(directory / f"{STOREFRONT}.pem")),
            _app(SHOP_WEB, "Shop", AUTHORIZATION_CODE, members, callback, "http://127.0.0.1/callback"),
            _app(COMMAND_LINE, "Isthmus on the command line", DEVICE_CODE, members),
        ):
            store.put_client(replace(client, bound=client.client_id not in bearer))
        for workload, scopes in workloads_of(contract).items():
            store.put_client(_workload(SpiffeId("private", workload, trust_domain), scopes))
        if sandbox:
            secret_hash = _secret_hash(store, passwords, directory / f"{SANDBOX}.secret")
            store.put_client(
                Client(
                    client_id=SANDBOX,
                    name="Sandbox",
                    secret_hash=secret_hash,
                    grants=frozenset({CLIENT_CREDENTIALS} | ({AUTHORIZATION_CODE} if sandbox_callback else set())),
                    scopes=known | ({openid.SCOPE} if sandbox_callback else set()),
                    redirect_uris=(sandbox_callback,) if sandbox_callback else (),
                    authentication=Authentication.CLIENT_SECRET,
                )
            )
        else:
            store.remove_client(SANDBOX)
    finally:
        os.close(descriptor)


def _program(client_id: str, name: str, scopes: frozenset[str], jwks: str) -> Client:
    """A program that calls in its own name, and proves itself by its key."""
    grants = frozenset({CLIENT_CREDENTIALS})
    return Client(client_id, name, None, grants, scopes, (), Authentication.PRIVATE_KEY_JWT, jwks=jwks)


def _workload(spiffe_id: SpiffeId, scopes: frozenset[str]) -> Client:
    """A workload of the zone, which proves itself by its certificate (RFC 8705)."""
    name, grants = spiffe_id.workload, frozenset({CLIENT_CREDENTIALS})
    return Client(name, name, None, grants, scopes, (), Authentication.TLS, spiffe_id=str(spiffe_id))


def _app(client_id: str, name: str, grant: str, members: frozenset[str], *redirect_uris: str) -> Client:
    """A public client, which calls in the name of members. One that browsers come back to is told who they are, too."""
    scopes = members | ({openid.SCOPE} if grant == AUTHORIZATION_CODE else set())
    return Client(client_id, name, None, frozenset({grant, REFRESH_TOKEN}), scopes, redirect_uris)


def _public_keys(path: Path) -> str:
    """The JWK set of the file's private key, which is made if there is none."""
    if not path.exists():
        made = ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        write_file(path, made, PRIVATE_MODE)
    key = serialization.load_pem_private_key(read_key_file(path), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise FailedPrecondition("KEY_FILE_INVALID", f"{path} holds no P-256 key", remedy=f"Remove {path}.")
    return json.dumps({"keys": [public_jwk(key.public_key())]})


def _secret_hash(store: Store, passwords: PasswordChecker, path: Path) -> str:
    """The stored hash if it is the file's, else the hash of the file's secret, which is made if there is none."""
    if not path.exists():
        write_file(path, secrets.token_urlsafe(32).encode(), PRIVATE_MODE)
    secret = read_key_file(path).decode("ascii").strip()
    client = store.client(SANDBOX)
    stored = client.secret_hash if client else None
    return stored if stored and passwords.check(stored, secret) else passwords.hash(secret)
