"""An access token by client credentials (RFC 6749 section 4.4), fetched before the old one ends."""

import asyncio
import time
from base64 import b64encode
from pathlib import Path
from urllib.parse import quote_plus, urlencode

import msgspec
import stamina

from chaos.load.client import PublicClient
from chaos.load.outcomes import CallFailed

RENEW_BEFORE_S = 30.0
ATTEMPTS = 8
RETRY_WITHIN_S = 30.0


class _TokenAnswer(msgspec.Struct):
    access_token: str
    expires_in: float


class ClientToken:
    """The token of one client; `authorization()` gives the header, and asks for a new token when it is time."""

    def __init__(self, client: PublicClient, client_id: str, secret_file: Path, scope: str) -> None:
        self._client = client
        self._client_id = client_id
        self._secret_file = secret_file
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
        # RFC 6749 section 2.3.1: id and secret are form-encoded before they are joined.
        secret = self._secret_file.read_text().strip()
        credentials = b64encode(f"{quote_plus(self._client_id)}:{quote_plus(secret)}".encode()).decode()
        headers = {"authorization": f"Basic {credentials}", "content-type": "application/x-www-form-urlencoded"}
        form = urlencode({"grant_type": "client_credentials", "scope": self._scope}).encode()
        asked = time.monotonic()
        answer = await self._client.send("POST", "/oauth/token", form, headers)
        if answer.status != 200:
            raise answer.refused()
        token = msgspec.json.decode(answer.body, type=_TokenAnswer)
        self._header = f"Bearer {token.access_token}"
        # A token that lives only briefly is used for half of its life.
        self._renew_at = asked + max(token.expires_in - RENEW_BEFORE_S, token.expires_in / 2)
