"""OpenID Connect: discovery, authorization code with PKCE, state and nonce, and the ID token for an answer."""

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from authlib.oauth2.auth import ClientAuth
from authlib.oauth2.rfc6749.parameters import prepare_grant_uri, prepare_token_request
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from authlib.oidc.discovery import OpenIDProviderMetadata, get_well_known_url

from mesh.client.assertion import AssertionKey
from mesh.clock import Clock
from security.oauth.federation import id_token
from security.oauth.federation.cached import Cached
from security.oauth.federation.fetch import Fetch
from security.oauth.federation.port import AwayError, NotProvenError, Person, Secrets, Wanted
from security.oauth.federation.settings import OpenIdSettings, https

T = TypeVar("T")

TIMEOUT_S: Final = 4.0
KEY_METHOD: Final = "private_key_jwt"
SECRET_METHODS: Final = ("client_secret_basic", "client_secret_post")


@dataclass(frozen=True)
class _Metadata:
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    # How this client proves itself there.
    method: str
    # RFC 9207: whether its answers always say whose they are.
    names_itself: bool


class _ProviderMetadata(OpenIDProviderMetadata):  # type: ignore[misc]
    """Authlib insists on RS256, as the standard does; a provider of ES256 or PS256 alone is as good (FAPI 2.0)."""

    def validate_id_token_signing_alg_values_supported(self) -> None:
        if id_token.ALGORITHMS.keys().isdisjoint(self.get("id_token_signing_alg_values_supported", ())):
            raise ValueError(f"it signs by none of {', '.join(id_token.ALGORITHMS)}")


class OpenIdProvider:
    """A `Provider`. redirect_uri: its own, shared with no other (RFC 9700, section 4.4.2.2).

    proof: our client's secret there, or the key by which it proves itself without one.
    """

    def __init__(
        self, settings: OpenIdSettings, proof: str | AssertionKey, redirect_uri: str, fetch: Fetch, clock: Clock
    ) -> None:
        self._issuer = settings.issuer
        self._client_id = settings.client_id
        self._proof = proof
        self._redirect_uri = redirect_uri
        self._fetch = fetch
        self._clock = clock
        self.titles = settings.titles
        self._metadata = Cached(self._discover, clock)
        self._keys = Cached(self._read_keys, clock)

    async def address(self, secrets: Secrets, wanted: Wanted) -> str:
        metadata = await _in_time(self._metadata.get())
        address: str = prepare_grant_uri(
            metadata.authorization_endpoint,
            client_id=self._client_id,
            response_type="code",
            redirect_uri=self._redirect_uri,
            scope="openid",
            state=secrets.state,
            nonce=secrets.nonce,
            code_challenge=create_s256_code_challenge(secrets.verifier),
            code_challenge_method="S256",
            prompt="login" if wanted.age_s_max == 0 else None,
            max_age=None if wanted.age_s_max is None else str(wanted.age_s_max),
        )
        return address

    async def person(self, answer: Mapping[str, str], secrets: Secrets, wanted: Wanted) -> Person:
        return await _in_time(self._person(answer, secrets, wanted))

    async def _person(self, answer: Mapping[str, str], secrets: Secrets, wanted: Wanted) -> Person:
        metadata = await self._metadata.get()
        named = answer.get("iss")
        if named != self._issuer and (named is not None or metadata.names_itself):
            raise NotProvenError("ANSWER_ISSUER", "the answer is another provider's")
        if "code" not in answer:
            raise NotProvenError("DENIED_THERE", answer.get("error", "")[:64])
        token = await self._redeem(metadata, answer["code"], secrets.verifier)
        expected = id_token.Expected(self._issuer, self._client_id, secrets.nonce)
        now_s = self._clock.now_us() // 1_000_000
        try:
            return id_token.person(token, await self._keys.get(), expected, wanted, now_s)
        except id_token.UnknownKeyError:
            return id_token.person(token, await self._keys.get(newer=True), expected, wanted, now_s)

    async def _redeem(self, metadata: _Metadata, code: str, verifier: str) -> str:
        url, headers = metadata.token_endpoint, dict[str, str]()
        named: dict[str, str] = {}
        if isinstance(self._proof, AssertionKey):
            # For the provider and no other: its issuer, and not an address that its metadata might say of another.
            named = {"client_id": self._client_id, **self._proof.form(self._issuer)}
        body = prepare_token_request(
            "authorization_code", redirect_uri=self._redirect_uri, code=code, code_verifier=verifier, **named
        )
        if isinstance(self._proof, str):
            url, headers, body = ClientAuth(self._client_id, self._proof, metadata.method).prepare(
                "POST", url, headers, body
            )
        status, said = await self._fetch(url, body, headers)
        if status != 200:
            raise NotProvenError("CODE_REFUSED", f"{status} {said.get('error', '')}"[:96])
        token = said.get("id_token")
        if not isinstance(token, str):
            raise NotProvenError("ID_TOKEN_MISSING")
        return token

    async def _discover(self) -> _Metadata:
        found = await self._read(get_well_known_url(self._issuer, external=True))
        try:
            said = _ProviderMetadata(found)
            said.validate()
            if said.get("issuer") != self._issuer:
                raise ValueError("it names another issuer")
            if "S256" not in said.get("code_challenge_methods_supported", ["S256"]):
                raise ValueError("it has no PKCE with S256")
            method = self._method(said)
            names = ("authorization_endpoint", "token_endpoint", "jwks_uri")
            authorization_endpoint, token_endpoint, jwks_uri = (https(said[name]) for name in names)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise AwayError(f"its metadata is not good: {error}") from None
        names_itself = said.get("authorization_response_iss_parameter_supported") is True
        return _Metadata(authorization_endpoint, token_endpoint, jwks_uri, method, names_itself)

    def _method(self, said: Mapping[str, Any]) -> str:
        """How our client proves itself there. ValueError where it cannot."""
        methods = said.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
        if isinstance(self._proof, AssertionKey):
            if KEY_METHOD not in methods:
                raise ValueError("it takes no client with a key")
            if "ES256" not in said.get("token_endpoint_auth_signing_alg_values_supported", ()):
                raise ValueError("it takes no client with a key of ES256")
            return KEY_METHOD
        for method in SECRET_METHODS:
            if method in methods:
                return method
        raise ValueError("it takes no client with a secret")

    async def _read_keys(self) -> Sequence[Mapping[str, Any]]:
        found = await self._read((await self._metadata.get()).jwks_uri)
        try:
            return id_token.public_keys(found)
        except ValueError as error:
            raise AwayError(f"its keys are not good: {error}") from None

    async def _read(self, url: str) -> dict[str, Any]:
        status, found = await self._fetch(url)
        if status != 200:
            raise AwayError(f"it answered {status}")
        return found


async def _in_time(work: Awaitable[T]) -> T:
    try:
        async with asyncio.timeout(TIMEOUT_S):
            return await work
    except TimeoutError:
        raise AwayError("it took too long") from None
