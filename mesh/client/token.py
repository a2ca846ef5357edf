"""An access token by client credentials (RFC 6749, section 4.4), asked for before the last one ends."""

import asyncio
import time
from pathlib import Path
from typing import Final

import aiohttp
import msgspec

from mesh.client.assertion import AssertionKey
from mesh.client.proof import ProofKey
from mesh.errors import Unauthenticated, Unavailable

RENEW_BEFORE_S: Final = 30.0
TIMEOUT_S: Final = 10.0
# Once more with the nonce that the first answer told.
ATTEMPTS_MAX: Final = 2


class _Given(msgspec.Struct):
    access_token: str
    expires_in: float


class _Refused(msgspec.Struct):
    error: str = "unreadable"


class ClientToken:
    """For the tasks of one loop. The key is read again for each token, so that a new one is taken up.

    Without a key, the certificate of the connection proves the client, and its tokens are bound to it (RFC 8705).
    bound: they are bound to a key of this object (RFC 9449), and each call brings a proof of it; whoever sees them on
    their way can do nothing with them.
    """

    def __init__(self, client_id: str, key_file: Path | None, scope: str, *, bound: bool = False) -> None:
        self._client_id = client_id
        self._key_file = key_file
        self._scope = scope
        self.proofs = ProofKey() if bound else None
        self._text = ""
        self._renew_at = 0.0
        self._asking = asyncio.Lock()

    def forget(self, text: str) -> None:
        """A token was refused: the next call asks for another."""
        if self._text == text:
            self._renew_at = 0.0

    async def text(self, session: aiohttp.ClientSession, issuer: str) -> str:
        """A token of `issuer`. Unauthenticated if it gives none, Unavailable if it does not answer."""
        if time.monotonic() >= self._renew_at:
            async with self._asking:
                if time.monotonic() >= self._renew_at:
                    await self._renew(session, issuer)
        return self._text

    async def _ask(self, session: aiohttp.ClientSession, issuer: str) -> tuple[int, bytes]:
        url, timeout = f"{issuer}/oauth/token", aiohttp.ClientTimeout(total=TIMEOUT_S)
        for _ in range(ATTEMPTS_MAX):
            # An assertion is good once.
            form = {"grant_type": "client_credentials", "scope": self._scope} | self._proof_of_client(issuer)
            proof = self.proofs.proof("POST", url) if self.proofs else None
            async with session.post(
                url, data=form, headers=proof.headers if proof else None, timeout=timeout
            ) as answer:
                status, body = answer.status, await answer.read()
            if status != 400 or not self.proofs or not proof or not self.proofs.told(answer.headers, proof):
                break
        return status, body

    def _proof_of_client(self, issuer: str) -> dict[str, str]:
        if self._key_file is None:
            return {"client_id": self._client_id}
        return AssertionKey(self._client_id, self._key_file).form(issuer)

    async def _renew(self, session: aiohttp.ClientSession, issuer: str) -> None:
        asked = time.monotonic()
        try:
            status, body = await self._ask(session, issuer)
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise Unavailable("TOKEN_UNAVAILABLE", "the authorization server does not answer") from error
        if status >= 500 or status == 429:
            raise Unavailable("TOKEN_UNAVAILABLE", f"the authorization server answers {status}")
        if status != 200:
            try:
                rule = msgspec.json.decode(body, type=_Refused).error
            except msgspec.DecodeError:
                rule = _Refused().error
            raise Unauthenticated(
                "TOKEN_REFUSED",
                f"the authorization server gives no token: {rule}",
                remedy="Look at the client's id, its key and the scopes that it is registered for.",
            )
        given = msgspec.json.decode(body, type=_Given)
        self._text = given.access_token
        # A token that lives only briefly is used for half of its life.
        self._renew_at = asked + max(given.expires_in - RENEW_BEFORE_S, given.expires_in / 2)
