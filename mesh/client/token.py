"""Access tokens of programs, asked for before the last one ends: by client credentials (RFC 6749, section 4.4)."""

import asyncio
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Protocol

import aiohttp
import msgspec

from mesh.client.assertion import AssertionKey
from mesh.client.proof import ProofKey
from mesh.errors import Unauthenticated, Unavailable

RENEW_BEFORE_S: Final = 30.0
TIMEOUT_S: Final = 10.0


class _Given(msgspec.Struct):
    access_token: str
    expires_in: float


class _Answer(msgspec.Struct):
    status: int
    headers: Mapping[str, str]
    body: bytes


class _Refused(msgspec.Struct):
    error: str = "unreadable"


class Token(Protocol):
    """Where a client of the mesh has its access token from. proofs: of the key that it is bound to, if it is to one."""

    proofs: ProofKey | None

    async def text(self, session: aiohttp.ClientSession, issuer: str) -> str:
        """A token of `issuer` that is good. Unauthenticated where there is none, Unavailable if nobody answers."""
        ...

    def forget(self, text: str) -> None:
        """It was refused: the next call asks for another."""
        ...


async def ask(
    session: aiohttp.ClientSession, issuer: str, form: Callable[[], Mapping[str, str]], proofs: ProofKey | None
) -> tuple[int, bytes]:
    """Status and body of the token endpoint's answer. form: made anew for each attempt. Unavailable without one."""
    url, timeout = f"{issuer}/oauth/token", aiohttp.ClientTimeout(total=TIMEOUT_S)

    async def send(proof: Mapping[str, str]) -> _Answer:
        async with session.post(url, data=form(), headers=proof, timeout=timeout) as answer:
            return _Answer(answer.status, answer.headers, await answer.read())

    try:
        answer = await (proofs.send("POST", url, 400, send) if proofs else send({}))
    except (TimeoutError, aiohttp.ClientError, OSError) as error:
        raise Unavailable("TOKEN_UNAVAILABLE", "the authorization server does not answer") from error
    if answer.status >= 500 or answer.status == 429:
        raise Unavailable("TOKEN_UNAVAILABLE", f"the authorization server answers {answer.status}")
    return answer.status, answer.body


def rule_of(body: bytes) -> str:
    """The error that an answer of the token endpoint names."""
    try:
        return msgspec.json.decode(body, type=_Refused).error
    except msgspec.DecodeError:
        return _Refused().error


class ClientToken:
    """For the tasks of one loop. The key is read again for each token, so that a new one is taken up.

    The tokens are bound to another key, of this object alone (RFC 9449), and each call brings a proof of it: whoever
    sees them on their way can do nothing with them. Without a key file, the certificate of the connection proves the
    client, and its tokens are bound to that (RFC 8705). bound: False where the client may have others and wants them.
    """

    def __init__(self, client_id: str, key_file: Path | None, scope: str, *, bound: bool = True) -> None:
        self._client_id = client_id
        self._key_file = key_file
        self._scope = scope
        self.proofs = ProofKey() if bound and key_file is not None else None
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

    def _proof_of_client(self, issuer: str) -> dict[str, str]:
        if self._key_file is None:
            return {"client_id": self._client_id}
        return AssertionKey(self._client_id, self._key_file).form(issuer)

    async def _renew(self, session: aiohttp.ClientSession, issuer: str) -> None:
        asked, grant = time.monotonic(), {"grant_type": "client_credentials", "scope": self._scope}
        # An assertion is good once.
        status, body = await ask(session, issuer, lambda: grant | self._proof_of_client(issuer), self.proofs)
        if status != 200:
            raise Unauthenticated(
                "TOKEN_REFUSED",
                f"the authorization server gives no token: {rule_of(body)}",
                remedy="Look at the client's id, its key and the scopes that it is registered for.",
            )
        given = msgspec.json.decode(body, type=_Given)
        self._text = given.access_token
        # A token that lives only briefly is used for half of its life.
        self._renew_at = asked + max(given.expires_in - RENEW_BEFORE_S, given.expires_in / 2)
