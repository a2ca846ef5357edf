"""The tokens that `isthmus login` keeps in a file: a member's, for programs at that member's terminal."""

import asyncio
import fcntl
import os
import time
from pathlib import Path
from typing import Any, Final

import aiohttp
import msgspec

from mesh.client.proof import ProofKey
from mesh.client.token import RENEW_BEFORE_S, ask, rule_of
from mesh.errors import Unauthenticated
from mesh.files import PRIVATE_MODE, write_file

CLIENT_ID: Final = "isthmus-cli"
REMEDY: Final = "Sign in with `isthmus login`."


class Kept(msgspec.Struct):
    """The file. until: when the access token ends, in seconds since the epoch; key: the JWK that both are bound to."""

    access_token: str
    refresh_token: str
    scope: str
    until: float
    key: dict[str, Any]

    @classmethod
    def given(cls, answer: dict[str, Any], key: ProofKey, asked_at: float) -> "Kept":
        """Of an answer of the token endpoint to a request that was sent at `asked_at`."""
        until = asked_at + float(answer["expires_in"])
        return cls(answer["access_token"], answer["refresh_token"], answer["scope"], until, key.private)

    def write(self, file: Path) -> None:
        """For its owner alone."""
        write_file(file, msgspec.json.encode(self), PRIVATE_MODE)


class SavedLogin:
    """A `Token`. For the tasks of one loop; several programs may share the file.

    A refresh token is good once, so the file is locked while one is used, and read again before.
    """

    def __init__(self, file: Path) -> None:
        """Unauthenticated without a file that can be read."""
        self._file = file
        self._kept = self._read()
        # The nonces that were told to it go with it: a key is made anew only where the file has another.
        self.proofs: ProofKey | None = ProofKey(self._kept.key)
        self._refused = ""
        self._asking = asyncio.Lock()

    async def text(self, session: aiohttp.ClientSession, issuer: str) -> str:
        """See Token."""
        if not self._good():
            async with self._asking:
                if not self._good():
                    await self._renew(session, issuer)
        return self._kept.access_token

    def forget(self, text: str) -> None:
        """See Token."""
        self._refused = text

    def _good(self) -> bool:
        return self._kept.access_token != self._refused and time.time() < self._kept.until - RENEW_BEFORE_S

    def _read(self) -> Kept:
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=Kept)
        except (OSError, msgspec.MsgspecError) as error:
            raise Unauthenticated("LOGIN_MISSING", f"{self._file} holds no sign-in", remedy=REMEDY) from error

    async def _renew(self, session: aiohttp.ClientSession, issuer: str) -> None:
        descriptor = os.open(self._file.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, PRIVATE_MODE)
        try:
            # Whoever else renews it is done within the time of a request, or has ended, and the lock with them.
            await asyncio.to_thread(fcntl.flock, descriptor, fcntl.LOCK_EX)
            await self._renew_alone(session, issuer)
        finally:
            os.close(descriptor)

    async def _renew_alone(self, session: aiohttp.ClientSession, issuer: str) -> None:
        before, self._kept = self._kept, self._read()
        if self.proofs is None or before.key != self._kept.key:
            self.proofs = ProofKey(self._kept.key)
        if self._good():
            return
        form = {"grant_type": "refresh_token", "client_id": CLIENT_ID, "refresh_token": self._kept.refresh_token}
        asked_at = time.time()
        status, body = await ask(session, issuer, lambda: form, self.proofs)
        if status != 200:
            raise Unauthenticated("LOGIN_OVER", f"the sign-in is no longer good: {rule_of(body)}", remedy=REMEDY)
        self._kept = Kept.given(msgspec.json.decode(body), self.proofs, asked_at)
        self._kept.write(self._file)
