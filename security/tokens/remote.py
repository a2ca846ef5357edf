"""The token check of a private service, wired to the authorization server: two lines in its main."""

from collections.abc import Sequence

from isthmus.oauth.v1 import oauth_pb2, oauth_pb2_grpc

from mesh.channel import Channels
from mesh.clock import SystemClock
from mesh.contract import Contract
from mesh.settings import ProcessSettings
from security.tokens.interceptor import TokenInterceptor
from security.tokens.keys import FetchJwks, PublishedKeys
from security.tokens.verifier import TokenVerifier


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
    """Fetches the keys from the `oauth` workload of the zone."""

    async def fetch() -> Sequence[str]:
        stub = oauth_pb2_grpc.KeysStub(channels.open("oauth"))
        return tuple((await stub.ListKeys(oauth_pb2.ListKeysRequest())).jwks)

    return fetch
