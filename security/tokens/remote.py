"""The token check of a private service, wired to the authorization server and the gateway: two lines in its main."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from isthmus.oauth.v1 import oauth_pb2, oauth_pb2_grpc

from mesh.channel import Channels
from mesh.clock import SystemClock
from mesh.contract import Contract
from mesh.settings import ProcessSettings
from security.tokens import inner
from security.tokens.delegation import Delegation
from security.tokens.keys import FetchJwks, KeySource, PublishedKeys
from security.tokens.revocation import FetchRevocations, Kind, Revocation, Revocations
from security.tokens.rule import TokenRule
from security.tokens.verifier import INNER, TokenVerifier

KINDS: Final = {
    Kind.TOKEN: oauth_pb2.REVOCATION_KIND_TOKEN,
    Kind.FAMILY: oauth_pb2.REVOCATION_KIND_FAMILY,
    Kind.SUBJECT: oauth_pb2.REVOCATION_KIND_SUBJECT,
}
_KIND_OF: Final = {number: kind for kind, number in KINDS.items()}


@dataclass(frozen=True)
class Keys:
    """The published keys, to be started and stopped with the process."""

    access: PublishedKeys
    inner: PublishedKeys

    async def start(self) -> None:
        """Fetch once and go on in the background."""
        await self.access.start()
        await self.inner.start()

    async def stop(self, grace_s: float) -> None:
        """Stop refreshing."""
        await self.access.stop(grace_s)
        await self.inner.stop(grace_s)


class TokenCheck:
    """Whatever a private service needs to check the inner tokens it is called with, and to call on with others.

    A service of the process; `rule` goes to the server's builder. The workload must be among the callers of
    isthmus.oauth.v1.Keys.
    """

    def __init__(self, settings: ProcessSettings, channels: Channels, contract: Contract) -> None:
        clock = SystemClock()
        self._keys = PublishedKeys(_fetch(channels, inner_keys=True), clock)
        self._revocations = Revocations(revocations_from(channels), clock)
        verifier = inner_verifier(settings, self._keys, self._revocations, settings.workload)
        self.rule = TokenRule(verifier, clock)
        channels.act_through(Delegation(channels, clock))

    async def start(self) -> None:
        """Fetch keys and revocations once and go on in the background."""
        await self._keys.start()
        await self._revocations.start()

    async def stop(self, grace_s: float) -> None:
        """Stop both."""
        await self._revocations.stop(grace_s)
        await self._keys.stop(grace_s)


def inner_verifier(
    settings: ProcessSettings, keys: KeySource, revocations: Revocations | None, audience: str
) -> TokenVerifier:
    """Accepts inner tokens for one workload."""
    return TokenVerifier(keys, inner.issuer(settings.trust_domain), audience, SystemClock(), revocations, INNER)


def _fetch(channels: Channels, *, inner_keys: bool) -> FetchJwks:
    """Fetches keys from the `oauth` workload of the zone."""

    stub = oauth_pb2_grpc.KeysStub(channels.open("oauth"))

    async def fetch(sought: str) -> Sequence[str]:
        answer = await stub.ListKeys(oauth_pb2.ListKeysRequest(key_id=sought))
        return tuple(answer.gateway_jwks if inner_keys else answer.jwks)

    return fetch


def revocations_from(channels: Channels) -> FetchRevocations:
    """Fetches the revocations from the `oauth` workload of the zone, when they have changed."""
    stub = oauth_pb2_grpc.KeysStub(channels.open("oauth"))
    version, last = "", tuple[Revocation, ...]()

    async def fetch() -> Sequence[Revocation]:
        nonlocal version, last
        answer = await stub.ListRevocations(oauth_pb2.ListRevocationsRequest(version=version))
        if not answer.unchanged:
            last = tuple(Revocation(_KIND_OF[each.kind], each.name, each.revoked_at) for each in answer.revocations)
            version = answer.version
        return last

    return fetch


def trusting(channels: Channels) -> tuple[Keys, Revocations]:
    """What whoever checks access tokens and makes inner ones needs, to be started and stopped with the process."""
    clock = SystemClock()
    access = PublishedKeys(_fetch(channels, inner_keys=False), clock)
    inner_keys = PublishedKeys(_fetch(channels, inner_keys=True), clock)
    return Keys(access, inner_keys), Revocations(revocations_from(channels), clock)
