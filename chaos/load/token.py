"""The token of whoever makes the load: asked for with patience, because drills break what gives it."""

from pathlib import Path

import stamina

from chaos.load.client import PublicClient
from chaos.load.outcomes import CallFailed
from mesh.client.token import ClientToken
from mesh.errors import MeshError

ATTEMPTS = 8
RETRY_WITHIN_S = 30.0


class PatientToken:
    """The token of one client; `authorization()` gives the header, and asks for a new token when it is time."""

    def __init__(self, client: PublicClient, client_id: str, key_file: Path, scope: str) -> None:
        self._client = client
        self._token = ClientToken(client_id, key_file, scope)

    async def authorization(self) -> dict[str, str]:
        """
        Raises:
            CallFailed: no token after ATTEMPTS tries.
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
        return {"authorization": f"Bearer {text}"}
