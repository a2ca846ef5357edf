"""The witness as the log asks it (C2SP tlog-witness), over HTTPS with both sides' certificates."""

import base64
from collections.abc import Sequence
from http import HTTPStatus

import aiohttp

from mesh.spiffe import SpiffeId
from mesh.tls import Identity

TIMEOUT_S = 5.0
_ANSWER_BYTES_MAX = 4096


class WitnessAway(Exception):
    """It did not answer, or cannot answer now."""


class WitnessRefused(Exception):
    """It will not cosign this."""


class OtherSize(Exception):
    """Its newest checkpoint is of another size than was said."""

    def __init__(self, size: int) -> None:
        super().__init__(f"the witness has cosigned {size} leaves")
        self.size = size


class WitnessClient:
    """One witness."""

    def __init__(self, address: str, peer: SpiffeId, identity: Identity) -> None:
        self._url = f"https://{address}/add-checkpoint"
        self._name = peer.dns_name
        self._context = identity.ssl_context(server=False)
        identity.on_change(lambda _: identity.renew(self._context))

    async def add_checkpoint(self, old_size: int, proof: Sequence[bytes], note: str) -> str:
        """The cosignature line. Raises WitnessAway, WitnessRefused, OtherSize."""
        hashes = "".join(f"\n{base64.b64encode(each).decode()}" for each in proof)
        status, text = await self._post(f"old {old_size}{hashes}\n\n{note}")
        if status == HTTPStatus.OK:
            return text
        if status == HTTPStatus.CONFLICT and text.strip().isdecimal() and int(text) != old_size:
            raise OtherSize(int(text))
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status == HTTPStatus.NOT_FOUND:
            raise WitnessAway(f"{status}: {text.strip()}")
        raise WitnessRefused(f"{status}: {text.strip()}")

    async def _post(self, body: str) -> tuple[int, str]:
        # A connection for each: it asks once in seconds, and a fresh handshake uses the newest certificate.
        connector = aiohttp.TCPConnector(ssl=self._context, force_close=True)
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        try:
            async with (
                aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
                session.post(self._url, data=body.encode(), server_hostname=self._name) as answer,
            ):
                return answer.status, (await answer.content.read(_ANSWER_BYTES_MAX)).decode(errors="replace")
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise WitnessAway(type(error).__name__) from error
