"""Proofs that a program holds the key its token is bound to (RFC 9449): one for each request, with a nonce of now."""

import base64
import hashlib
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

from joserfc import jwt
from joserfc.jwk import ECKey

_POINT: Final = ("kty", "crv", "x", "y")


@dataclass(frozen=True, slots=True)
class Proof:
    """The headers for one request, and the nonce in them."""

    headers: Mapping[str, str]
    nonce: str


class Answered(Protocol):
    """An HTTP answer; names of headers are in lower case, or any will do."""

    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]: ...


A = TypeVar("A", bound=Answered)


class ProofKey:
    """A key that is made here and never leaves this process, unless it is kept with the tokens that are bound to it.

    For the tasks of one loop. Who gives tokens and who takes them tell nonces of their own.
    """

    def __init__(self, kept: Mapping[str, Any] | None = None) -> None:
        """kept: what `private` gave; ValueError for anything else."""
        self._key = ECKey.generate_key("P-256") if kept is None else ECKey.import_key(dict(kept))
        public = self._key.as_dict(private=False)
        self._header = {"alg": "ES256", "typ": "dpop+jwt", "jwk": {name: public[name] for name in _POINT}}
        # By whether a token goes along.
        self._nonces = {False: "", True: ""}

    @property
    def private(self) -> dict[str, Any]:
        """The private JWK. Whoever has it and a token can use the token."""
        return dict(self._key.as_dict(private=True))

    def proof(self, verb: str, url: str, token: str = "") -> Proof:
        """For one request to `url`, which has no query, and for the token that goes along."""
        nonce = self._nonces[bool(token)]
        said: dict[str, Any] = {"jti": secrets.token_urlsafe(16), "htm": verb, "htu": url, "iat": int(time.time())}
        if nonce:
            said["nonce"] = nonce
        if token:
            said["ath"] = base64.urlsafe_b64encode(hashlib.sha256(token.encode()).digest()).rstrip(b"=").decode()
        return Proof({"dpop": jwt.encode(self._header, said, self._key)}, nonce)

    async def send(
        self, verb: str, url: str, refused: int, send: Callable[[Mapping[str, str]], Awaitable[A]], token: str = ""
    ) -> A:
        """Have one request sent with a proof, and once more where the answer is `refused` and tells another nonce.

        Of a request without the nonce of now nothing was done (RFC 9449, section 8). send: takes the proof's headers.
        """
        proof = self.proof(verb, url, token)
        answer = await send(proof.headers)
        if answer.status == refused and self.told(answer.headers, proof, token):
            answer = await send(self.proof(verb, url, token).headers)
        return answer

    def told(self, answer: Mapping[str, str], sent: Proof, token: str = "") -> bool:
        """Take up the nonce of an answer. Whether it is another than was sent, so that the same may be asked again."""
        nonce = answer.get("dpop-nonce", "")
        if not nonce or nonce == sent.nonce:
            return False
        self._nonces[bool(token)] = nonce
        return True
