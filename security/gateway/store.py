"""What the gateway's replicas share in PostgreSQL, schema `gateway`: proofs that were used, and a key for nonces."""

import asyncio
import contextlib
import secrets
from datetime import UTC, datetime
from typing import Final

from sqlalchemy import Column, DateTime, LargeBinary, MetaData, SmallInteger, Table, delete, select
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mesh.database.engine import transact
from mesh.errors import MeshError
from mesh.logs import logger

log = logger("gateway")

metadata = MetaData(schema="gateway")
PROOFS: Final = Table(
    "proofs",
    metadata,
    Column("digest", LargeBinary, primary_key=True),
    Column("expires_at", DateTime(timezone=True), nullable=False),
)
NONCE_KEY: Final = Table(
    "nonce_key",
    metadata,
    Column("one", SmallInteger, primary_key=True),
    Column("key", LargeBinary, nullable=False),
)
SWEEP_S: Final = 30.0
SWEEP_ROWS_MAX: Final = 10_000


class ProofStore:
    """A service of the process, which sweeps in the background. Methods raise mesh.errors types."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._task: asyncio.Task[None] | None = None

    async def nonce_key(self) -> bytes:
        """The key that all replicas share, made by the first of them."""
        made = upsert(NONCE_KEY).values(one=1, key=secrets.token_bytes(32)).on_conflict_do_nothing()

        async def keep(connection: AsyncConnection) -> bytes:
            await connection.execute(made)
            return bytes((await connection.execute(select(NONCE_KEY.c.key))).scalar_one())

        return await transact(self._engine, keep)

    async def first_use(self, digest: bytes, until: int) -> bool:
        """Note a proof until it is refused for its age; False if it was noted before, on whichever replica."""
        expires_at = datetime.fromtimestamp(until, UTC)
        noted = upsert(PROOFS).values(digest=digest, expires_at=expires_at).on_conflict_do_nothing()

        async def note(connection: AsyncConnection) -> bool:
            found = await connection.execute(noted.returning(PROOFS.c.digest))
            return found.one_or_none() is not None

        return await transact(self._engine, note)

    async def start(self) -> None:
        """Begin to sweep."""
        self._task = asyncio.create_task(self._run(), name="proofs")

    async def stop(self, grace_s: float) -> None:
        """Stop sweeping."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            try:
                await transact(self._engine, self._sweep)
            except MeshError as error:
                log.warning("proofs_not_swept", reason=error.reason)

    async def _sweep(self, connection: AsyncConnection) -> None:
        old = select(PROOFS.c.digest).where(PROOFS.c.expires_at <= datetime.now(UTC)).limit(SWEEP_ROWS_MAX)
        await connection.execute(delete(PROOFS).where(PROOFS.c.digest.in_(old)))
