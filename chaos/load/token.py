"""An access token by client credentials (RFC 6749 section 4.4), fetched before the old one ends."""

import asyncio
import time
from pathlib import Path
from urllib.parse import urlencode

import msgspec
import stamina

from chaos.load.client import PublicClient
from chaos.load.outcomes import CallFailed
from mesh.client.assertion import AssertionKey

RENEW_BEFORE_S = 30.0
ATTEMPTS = 8
RETRY_WITHIN_S = 30.0


class _TokenAnswer(msgspec.Struct):
    access_token: str
    expires_in: float


class ClientToken:
    """The token of one client; `authorization()` gives the header, and asks for a new token when it is time."""

    def __init__(self, client: PublicClient, client_id: str, key_file: Path, scope: str) -> None:
        self._client = client
        self._client_id = client_id
        self._key_file = key_file
        self._scope = scope
        self._header = ""
        self._renew_at = 0.0
        self._asking = asyncio.Lock()

    async def authorization(self) -> dict[str, str]:
        """
        Raises:
            CallFailed: no token after ATTEMPTS tries.
        """
        if time.monotonic() >= self._renew_at:
            async with self._asking:
                if time.monotonic() >= self._renew_at:
                    await self._renew()
        return {"authorization": self._header}

    async def _renew(self) -> None:
        async for attempt in stamina.retry_context(
            on=CallFailed, attempts=ATTEMPTS, timeout=RETRY_WITHIN_S, wait_initial=0.2, wait_max=3.0
        ):
            with attempt:
                await self._ask()

    async def _ask(self) -> None:
        # The key is read again for each token, so that a new one is taken up.
        proof = AssertionKey(self._client_id, self._key_file).form(self._client.url)
        form = {"grant_type": "client_credentials", "scope": self._scope} | proof
        headers = {"content-type": "application/x-www-form-urlencoded"}
        asked = time.monotonic()
        answer = await self._client.send("POST", "/oauth/token", urlencode(form).encode(), headers)
        if answer.status != 200:
            raise answer.refused()
        token = msgspec.json.decode(answer.body, type=_TokenAnswer)
        self._header = f"Bearer {token.access_token}"
        # A token that lives only briefly is used for half of its life.
        self._renew_at = asked + max(token.expires_in - RENEW_BEFORE_S, token.expires_in / 2)
