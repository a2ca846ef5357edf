"""A decision alone, asked for as the core gateway asks for it, with a token and what proves its holder."""

from collections import deque
from collections.abc import Mapping
from typing import Final

import grpc
from envoy.service.auth.v3 import external_auth_pb2 as auth
from envoy.service.auth.v3 import external_auth_pb2_grpc

from mesh.client.proof import Proof, ProofKey

VERB: Final = "POST"
TIMEOUT_S: Final = 10.0
# Once more with the nonce that the first answer told.
ASKED_MAX: Final = 2


class Question:
    """Whether a call of `path` may go on that shows `token`, bound to `key`, or to the certificate of who sent it.

    origin: where the outside finds the mesh; client: the sender's certificate as the core gateway tells of it.
    """

    def __init__(self, path: str, token: str, client: str, origin: str, key: ProofKey | None) -> None:
        self._url = origin + path
        self._token = token
        self._key = key
        self._ready: deque[tuple[auth.CheckRequest, Proof | None]] = deque()
        self._check = auth.CheckRequest()
        http = self._check.attributes.request.http
        http.method, http.path = VERB, path
        shown = f"{'DPoP' if key else 'Bearer'} {token}"
        http.headers.update({"authorization": shown, "x-forwarded-client-cert": client})

    def prepare(self, count: int) -> None:
        """Make so many requests ahead, with the nonce of now: while a clock runs, none is made."""
        self._ready.clear()
        self._ready.extend(self._made() for _ in range(count))

    async def ask(self, channel: grpc.aio.Channel) -> auth.CheckResponse:
        """The decision, with a proof of its own."""
        stub = external_auth_pb2_grpc.AuthorizationStub(channel)
        answer: auth.CheckResponse
        for _ in range(ASKED_MAX):
            check, proof = self._ready.popleft() if self._ready else self._made()
            answer = await stub.Check(check, timeout=TIMEOUT_S)
            if proof is None or not self._key or not self._key.told(_headers(answer), proof, self._token):
                break
        return answer

    def _made(self) -> tuple[auth.CheckRequest, Proof | None]:
        if self._key is None:
            return self._check, None
        proof = self._key.proof(VERB, self._url, self._token)
        # Others may be asking at this moment.
        check = auth.CheckRequest()
        check.CopyFrom(self._check)
        check.attributes.request.http.headers.update(proof.headers)
        return check, proof

    async def allowed(self, channel: grpc.aio.Channel) -> bool:
        """Whether the call may go on."""
        return bool((await self.ask(channel)).status.code == 0)


def sent_by(peer: str, thumbprint: str = "0" * 64) -> str:
    """A sender as the core gateway tells of it. thumbprint: SHA-256 of its certificate, in hex."""
    return f"Hash={thumbprint};URI={peer}"


def inner_token(answer: auth.CheckResponse) -> str:
    """The header with which an allowed call goes on."""
    [header] = answer.ok_response.headers
    return str(header.header.value)


def _headers(answer: auth.CheckResponse) -> Mapping[str, str]:
    return {each.header.key: each.header.value for each in answer.denied_response.headers}
