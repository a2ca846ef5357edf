"""The token check of a private service, wired to the authorization server: two lines in its main."""

from collections.abc import Sequence
from typing import Final

from isthmus.oauth.v1 import oauth_pb2, oauth_pb2_grpc

from mesh.channel import Channels
from mesh.clock import SystemClock
from mesh.contract import Contract
from mesh.settings import ProcessSettings
from security.tokens.interceptor import TokenInterceptor
from security.tokens.keys import FetchJwks, PublishedKeys
from security.tokens.revocation import FetchRevocations, Kind, Revocation, Revocations
from security.tokens.verifier import TokenVerifier

KINDS: Final = {
    Kind.TOKEN: oauth_pb2.REVOCATION_KIND_TOKEN,
    Kind.FAMILY: oauth_pb2.REVOCATION_KIND_FAMILY,
    Kind.SUBJECT: oauth_pb2.REVOCATION_KIND_SUBJECT,
}
_KIND_OF: Final = {number: kind for kind, number in KINDS.items()}


def token_check(
    settings: ProcessSettings, channels: Channels, contract: Contract
) -> tuple[PublishedKeys, TokenInterceptor]:
    """The keys, to be started and stopped with the process, and the interceptor, to be given to the server's builder.

    The calling workload must be among the callers of isthmus.oauth.v1.Keys.ListKeys.
    """
    clock = SystemClock()
    keys = PublishedKeys(fetch_from(channels), clock)
    return keys, TokenInterceptor(TokenVerifier(keys, settings.issuer, settings.audience, clock), contract)


def fetch_from(channels: Channels) -> FetchJwks:
    """Fetches the keys of access tokens from the `oauth` workload of the zone."""

    async def fetch() -> Sequence[str]:
        stub = oauth_pb2_grpc.KeysStub(channels.open("oauth"))
        return tuple((await stub.ListKeys(oauth_pb2.ListKeysRequest())).jwks)

    return fetch


def revocations_from(channels: Channels) -> FetchRevocations:
    """Fetches the revocations from the `oauth` workload of the zone, when they have changed."""
    version, last = "", tuple[Revocation, ...]()

    async def fetch() -> Sequence[Revocation]:
        nonlocal version, last
        stub = oauth_pb2_grpc.KeysStub(channels.open("oauth"))
        answer = await stub.ListRevocations(oauth_pb2.ListRevocationsRequest(version=version))
        if not answer.unchanged:
            last = tuple(Revocation(_KIND_OF[each.kind], each.name, each.revoked_at) for each in answer.revocations)
            version = answer.version
        return last

    return fetch


def trusting(settings: ProcessSettings, channels: Channels) -> tuple[PublishedKeys, Revocations]:
    """Keys and revocations of access tokens, to be started and stopped with the process."""
    clock = SystemClock()
    return PublishedKeys(fetch_from(channels), clock), Revocations(revocations_from(channels), clock)
