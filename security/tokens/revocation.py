"""Which tokens are revoked: a short list that every enforcement point holds and asks for again every second or two."""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from mesh.call import Claims
from mesh.clock import Clock
from mesh.errors import MeshError, Unauthenticated, Unavailable
from mesh.logs import logger

log = logger("tokens")

# Access tokens live for minutes, so this is how many may be revoked in ten of them.
REVOCATIONS_MAX: Final = 20_000
POLL_S: Final = 1.5
FETCH_TIMEOUT_S: Final = 2.0
# A list that is older than this says too little: better no answer than a wrong one.
STALE_S: Final = 120.0


class Kind(Enum):
    """What is revoked."""

    # One access token, by its jti.
    TOKEN = "token"  # noqa: S105 (the name of a kind)
    # All tokens of one consent, by its sid.
    FAMILY = "family"
    # All tokens of one subject that were made until then.
    SUBJECT = "subject"


@dataclass(frozen=True, slots=True)
class Revocation:
    """One entry of the list. revoked_at: seconds since the epoch."""

    kind: Kind
    name: str
    revoked_at: int


FetchRevocations = Callable[[], Awaitable[Sequence[Revocation]]]


class Revocations:
    """The list, asked for again in the background. `fetch` returns all of it."""

    def __init__(self, fetch: FetchRevocations, clock: Clock) -> None:
        self._fetch = fetch
        self._clock = clock
        self._listed: dict[tuple[Kind, str], int] = {}
        self._read_at = float("-inf")
        self._task: asyncio.Task[None] | None = None

    def check(self, claims: Claims) -> None:
        """Unauthenticated if the token is revoked; Unavailable if that has not been known for STALE_S."""
        if self._clock.monotonic() - self._read_at > STALE_S:
            raise Unavailable("REVOCATIONS_UNAVAILABLE", "it cannot be told now which access tokens are revoked")
        listed = self._listed
        if not listed:
            return
        until = listed.get((Kind.SUBJECT, claims.subject))
        if (
            (Kind.TOKEN, claims.origin or claims.token_id) in listed
            or (claims.session_id and (Kind.FAMILY, claims.session_id) in listed)
            or (until is not None and claims.issued <= until)
        ):
            raise Unauthenticated("TOKEN_REVOKED", "the access token is revoked")

    async def start(self) -> None:
        """Ask once and go on in the background. A failed first try is not fatal: the issuer may start later."""
        await self.refresh()
        self._task = asyncio.create_task(self._run(), name="revocations")

    async def stop(self, grace_s: float) -> None:
        """Stop asking."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def refresh(self) -> None:
        """Ask now; on any failure the list that is there stays."""
        asked_at = self._clock.monotonic()
        try:
            found = await asyncio.wait_for(self._fetch(), FETCH_TIMEOUT_S)
        except Exception as error:  # whatever the network does, the last list stays until it is stale
            detail = error.reason if isinstance(error, MeshError) else type(error).__name__
            log.warning("revocations_not_refreshed", detail=detail, kept=len(self._listed))
            return
        self._listed = {(each.kind, each.name): each.revoked_at for each in found}
        self._read_at = asked_at

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(POLL_S * random.uniform(0.8, 1.1))  # noqa: S311 (spreading load, not a secret)
            await self.refresh()
