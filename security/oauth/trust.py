"""What verifiers ask for every second: revocations and the gateway's keys, read from PostgreSQL once a second."""

import asyncio
import contextlib
import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from mesh.clock import Clock
from mesh.logs import logger
from security.oauth.family_store import FamilyStore
from security.oauth.key_store import GatewayKeyStore
from security.tokens.keys import parse_jwk
from security.tokens.revocation import REVOCATIONS_MAX, Revocation

log = logger("oauth")

READ_S: Final = 1.0
READ_TIMEOUT_S: Final = 5.0
# A gateway makes a new key with every start, and publishes it again well before this.
GATEWAY_KEY_LIFE: Final = timedelta(hours=2)


class Trust:
    """The last that was read stays while PostgreSQL is away: without it nothing can be revoked either."""

    def __init__(self, families: FamilyStore, keys: GatewayKeyStore, clock: Clock) -> None:
        self._families = families
        self._keys = keys
        self._clock = clock
        self._task: asyncio.Task[None] | None = None
        self.revocations: Sequence[Revocation] = ()
        self.version = ""
        # Of the gateways, by key id.
        self._jwks: dict[str, str] = {}
        self._reading = asyncio.Lock()

    async def jwks(self, sought: str = "") -> Sequence[str]:
        """The gateways' public keys. Read anew when `sought`, a key id, is not among those that were read last.

        Another replica may have taken the key: what it answered its gateway stands in PostgreSQL alone.
        """
        if sought and sought not in self._jwks:
            async with self._reading:
                if sought not in self._jwks:
                    await self.refresh()
        return tuple(self._jwks.values())

    async def listed(self) -> Sequence[Revocation]:
        """The revocations as this process checks them itself."""
        return self.revocations

    async def publish(self, jwk: str) -> str:
        """Keep a gateway's public key; returns its id. ValueError if it is none."""
        kid, _ = parse_jwk(jwk)
        await asyncio.to_thread(self._keys.put, kid, jwk, self._now() + GATEWAY_KEY_LIFE)
        await self.refresh()
        return kid

    async def start(self) -> None:
        """Read once, or fail."""
        await self.refresh()
        self._task = asyncio.create_task(self._run(), name="trust")

    async def stop(self, grace_s: float) -> None:
        """Stop reading."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def refresh(self) -> None:
        """Read both now."""
        now = self._now()
        async with asyncio.timeout(READ_TIMEOUT_S):
            revocations = await asyncio.to_thread(self._families.revocations, now)
            jwks = await asyncio.to_thread(self._keys.listed, now)
        self._jwks = {parse_jwk(text)[0]: text for text in jwks}
        if len(revocations) >= REVOCATIONS_MAX:
            log.error("revocations_overflow", listed=REVOCATIONS_MAX)
        self.revocations = revocations
        digest = hashlib.sha256(repr(sorted(map(repr, revocations))).encode())
        self.version = digest.hexdigest()[:32]

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock.now_us() / 1e6, UTC)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(READ_S)
            try:
                await self.refresh()
            except Exception as error:  # what was read last stays
                log.error("trust_not_refreshed", detail=type(error).__name__)
