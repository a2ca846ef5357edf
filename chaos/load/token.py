"""The token of whoever makes the load: asked for with patience, because drills break what gives it."""

from collections.abc import Awaitable, Mapping
from pathlib import Path

import stamina

from chaos.load.client import Answer, PublicClient
from chaos.load.outcomes import CallFailed
from mesh.client.token import ClientToken
from mesh.errors import MeshError

ATTEMPTS = 8
RETRY_WITHIN_S = 30.0


class PatientToken:
    """The token of one client, bound to a key of its own; `send` brings it along with a proof for each request."""

    def __init__(self, client: PublicClient, client_id: str, key_file: Path, scope: str) -> None:
        self._client = client
        self._token = ClientToken(client_id, key_file, scope)
        assert self._token.proofs is not None
        self.proofs = self._token.proofs

    async def send(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Send one request as PublicClient does, in the client's name. A token that is refused is replaced once and the
        request sent with the new one, as RFC 6750, section 3.1, has it: nothing was done with the first.

        Raises:
            CallFailed: no answer came, or no token after ATTEMPTS tries.
        """
        text = await self.text()
        answer = await self.send_with(text, method, path, body, headers)
        if answer.status != 401:
            return answer
        self._token.forget(text)
        return await self.send_with(await self.text(), method, path, body, headers)

    async def send_with(
        self, text: str, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """The same with this token and no other.

        Raises:
            CallFailed: no answer came.
        """

        def send(proof: Mapping[str, str]) -> Awaitable[Answer]:
            shown = {**(headers or {}), "authorization": f"DPoP {text}", **proof}
            return self._client.send(method, path, body, shown)

        return await self.proofs.send(method, self._client.url + path.partition("?")[0], 401, send, text)

    async def text(self) -> str:
        """The token itself, a new one when it is time.

        Raises:
            CallFailed: none after ATTEMPTS tries.
        """
        text = ""
        try:
            async for attempt in stamina.retry_context(
                on=MeshError, attempts=ATTEMPTS, timeout=RETRY_WITHIN_S, wait_initial=0.2, wait_max=3.0
            ):
                with attempt:
                    text = await self._token.text(self._client.session, self._client.url)
        except MeshError as error:
            raise CallFailed(f"no token: {error.reason}: {error.message}") from error
        return text
