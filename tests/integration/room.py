"""A private room under test: a server of the mesh with real certificates, and tokens that verify."""

import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import jwt
from cryptography.hazmat.primitives.asymmetric import ec

from mesh.channel import Channels
from mesh.clock import SystemClock
from mesh.contract import load
from mesh.database.migrate import owners
from mesh.database.roles import as_role
from mesh.server import ServerBuilder
from mesh.settings import ProcessSettings
from mesh.spiffe import TRUST_DOMAIN, SpiffeId
from mesh.tls import Identity
from security.audit.port import AuditSink
from security.audit.recorder import CallRecorder
from security.identity import wallet
from security.identity.authority import Authority
from security.tokens import inner
from security.tokens.admission import STEP_UP_CONTEXT
from security.tokens.remote import inner_verifier
from security.tokens.rule import TokenRule
from tests.ports import free_port

ISSUER = "https://localhost:1"
CLIENT = "storefront"


def plain(url: str) -> str:
    """SQLAlchemy's URL as psycopg reads it."""
    return url.replace("postgresql+psycopg://", "postgresql://", 1)


def own(url: str, workload: str) -> str:
    """The URL as the workload's own role, which may no more than its grants say."""
    return as_role(url, workload, [owner.versions.parent for owner in owners()])


class Issuer:
    """Stands in for the gateway: signs inner tokens for one workload, and knows the key to check them with."""

    def __init__(self, workload: str) -> None:
        self._workload = workload
        self._private = ec.generate_private_key(ec.SECP256R1())

    def held(self, kid: str) -> ec.EllipticCurvePublicKey | None:
        return self._private.public_key() if kid == "1" else None

    async def key(self, kid: str) -> ec.EllipticCurvePublicKey | None:
        return self.held(kid)

    def token(self, *scopes: str, subject: str = CLIENT, presenter: str = "core-gateway", both: bool = False) -> str:
        now = int(time.time())
        claims: dict[str, Any] = {
            "iss": inner.issuer(TRUST_DOMAIN),
            "aud": self._workload,
            "sub": subject,
            "client_id": CLIENT,
            "scope": " ".join(scopes),
            "iat": now,
            "exp": now + inner.LIFE_S,
            "jti": secrets.token_hex(8),
            "origin": secrets.token_hex(8),
            "origin_iat": now,
            "act": inner.act((str(SpiffeId("private", presenter)),)),
        }
        if both:
            claims |= {"acr": STEP_UP_CONTEXT, "auth_time": now}
        return jwt.encode(claims, self._private, "ES256", {"typ": inner.TYPE, "kid": "1"})


class PrivateRoom:
    """The server of one workload, and whoever may want to call it."""

    def __init__(self, home: Path, workload: str) -> None:
        self.home = home
        self.authority = Authority.open_or_create(home / "ca" / "private", "isthmus.internal", "private")
        self.issuer = Issuer(workload)
        self.contract = load()
        self.settings = ProcessSettings(
            home=home,
            zone="private",
            workload=workload,
            node=f"{workload}-1",
            identity_dir=self._issue(workload),
            grpc_address=f"127.0.0.1:{free_port()}",
            issuer=ISSUER,
        )
        self.identity = Identity(self.settings.identity_dir)

    @asynccontextmanager
    async def serving(
        self, adder: Callable[[Any, Any], None], servicer: object, sink: AuditSink, *others: tuple[Any, object]
    ) -> AsyncIterator[None]:
        """others: the adder and the servicer of each further service that the workload has."""
        verifier = inner_verifier(self.settings, self.issuer, None, self.settings.workload)
        tokens = TokenRule(verifier, SystemClock())
        audit = CallRecorder(sink, self.settings)
        builder = ServerBuilder(self, tokens=tokens, audit=audit).add(adder, servicer)
        for also in others:
            builder.add(*also)
        server = builder.build()
        await server.start()
        try:
            yield
        finally:
            await server.stop(1.0)

    @asynccontextmanager
    async def caller(self, workload: str = "core-gateway") -> AsyncIterator[grpc.aio.Channel]:
        """A channel to the room with the certificate of `workload`."""
        channels = Channels(Identity(self._issue(workload)), self.contract)
        assert self.settings.grpc_address is not None
        try:
            yield channels.direct(self.settings.grpc_address, SpiffeId("private", self.settings.workload))
        finally:
            await channels.close(0)

    def bearer(
        self, *scopes: str, subject: str = CLIENT, presenter: str = "core-gateway", both: bool = False
    ) -> tuple[tuple[str, str | bytes], ...]:
        """A token that `presenter` may call with. both: the subject has just shown a second factor, too."""
        token = self.issuer.token(*scopes, subject=subject, presenter=presenter, both=both)
        return (("authorization", f"Bearer {token}"),)

    def _issue(self, workload: str) -> Path:
        directory = self.home / "run" / workload / "identity"
        root = (self.home / "ca" / "private" / "root.pem").read_bytes()
        wallet.write(directory, wallet.Wallet(self.authority.issue(workload, timedelta(hours=1)), root))
        return directory / "live"
