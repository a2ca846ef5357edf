"""The clients that every mesh begins with: the shop's back end, its browser app, and the command line."""

import fcntl
import os
import secrets
from pathlib import Path

from mesh.contract import Contract
from security.identity.files import DIRECTORY_MODE, KEY_MODE, read_key_file, write_file
from security.oauth.device import DEVICE_CODE
from security.oauth.domain import Authentication, Client
from security.oauth.passwords import PasswordChecker
from security.oauth.protocol import AUTHORIZATION_CODE, CLIENT_CREDENTIALS, REFRESH_TOKEN
from security.oauth.store import Store

STOREFRONT = "storefront"
SHOP_WEB = "shop-web"
COMMAND_LINE = "isthmus-cli"
SHOP_WEB_SCOPES = frozenset(
    {"members.read", "members.reveal", "orders.read", "orders.write", "payments.read", "payments.write"}
)


def scopes_of(contract: Contract) -> frozenset[str]:
    """Every scope that some method asks for."""
    return frozenset(scope for method in contract.methods.values() for scope in method.scopes)


def seed(store: Store, passwords: PasswordChecker, contract: Contract, secrets_directory: Path, callback: str) -> None:
    """Register the clients, or bring them up to date. The replicas take turns; a secret is made once and kept."""
    secrets_directory.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
    descriptor = os.open(secrets_directory / ".lock", os.O_RDWR | os.O_CREAT, KEY_MODE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        known = scopes_of(contract)
        store.put_client(
            Client(
                client_id=STOREFRONT,
                name="Storefront",
                secret_hash=_secret_hash(store, passwords, secrets_directory / f"{STOREFRONT}.secret"),
                grants=frozenset({CLIENT_CREDENTIALS}),
                scopes=known,
                redirect_uris=(),
                authentication=Authentication.CLIENT_SECRET,
            )
        )
        store.put_client(
            Client(
                client_id=SHOP_WEB,
                name="Shop",
                secret_hash=None,
                grants=frozenset({AUTHORIZATION_CODE, REFRESH_TOKEN}),
                scopes=SHOP_WEB_SCOPES & known,
                redirect_uris=(callback, "http://127.0.0.1/callback"),
            )
        )
        store.put_client(
            Client(
                client_id=COMMAND_LINE,
                name="Isthmus on the command line",
                secret_hash=None,
                grants=frozenset({DEVICE_CODE, REFRESH_TOKEN}),
                scopes=SHOP_WEB_SCOPES & known,
                redirect_uris=(),
            )
        )
    finally:
        os.close(descriptor)


def _secret_hash(store: Store, passwords: PasswordChecker, path: Path) -> str:
    """The stored hash if it is the file's, else the hash of the file's secret, which is made if there is none."""
    if not path.exists():
        write_file(path, secrets.token_urlsafe(32).encode(), KEY_MODE)
    secret = read_key_file(path).decode("ascii").strip()
    client = store.client(STOREFRONT)
    stored = client.secret_hash if client else None
    return stored if stored and passwords.check(stored, secret) else passwords.hash(secret)
