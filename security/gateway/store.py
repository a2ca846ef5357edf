"""What the gateway's replicas share in PostgreSQL, schema `gateway`: proofs that were used, and a key for nonces."""

import asyncio
import contextlib
import secrets
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

from sqlalchemy import Column, DateTime, LargeBinary, MetaData, SmallInteger, Table, delete, select, text
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mesh.database.engine import execute, transact
from mesh.errors import MeshError, Unavailable
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


# Digests come and go as one value, which the driver handles at once. They are noted in one order, so that two replicas
# that note the same proofs do not wait for each other.
DIGEST_BYTES: Final = 32
NOTE: Final = text(
    "WITH new AS (INSERT INTO gateway.proofs (digest, expires_at)"
    " SELECT substr(shown, at, 32) AS digest, to_timestamp(:until)"
    " FROM (SELECT CAST(:digests AS bytea) AS shown) AS one, generate_series(1, length(shown), 32) AS at"
    " ORDER BY digest ON CONFLICT DO NOTHING RETURNING digest)"
    " SELECT string_agg(digest, '') AS digests FROM new"
)
# Proofs of one statement, and those that wait for the next.
BATCH_MAX: Final = 256
WAITING_MAX: Final = 4096
# What a statement costs hardly grows with what it notes. A proof that comes alone does not wait; those that came while
# a statement was under way wait so long for more.
GATHER_S: Final = 0.002


class ProofStore:
    """A service of the process, which sweeps in the background. Methods raise mesh.errors types.

    Proofs that arrive while a statement is under way are noted together by the next.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._task: asyncio.Task[None] | None = None
        self._waiting: dict[bytes, tuple[int, asyncio.Future[bool]]] = {}
        self._noting: asyncio.Task[None] | None = None

    async def nonce_key(self) -> bytes:
        """The key that all replicas share, made by the first of them."""
        made = upsert(NONCE_KEY).values(one=1, key=secrets.token_bytes(32)).on_conflict_do_nothing()

        async def keep(connection: AsyncConnection) -> bytes:
            await connection.execute(made)
            return bytes((await connection.execute(select(NONCE_KEY.c.key))).scalar_one())

        return await transact(self._engine, keep)

    async def first_use(self, digest: bytes, until: int) -> bool:
        """Note a proof until it is refused for its age; False if it was noted before, on whichever replica.

        digest: DIGEST_BYTES of it.
        """
        if digest in self._waiting:
            return False
        if len(self._waiting) >= WAITING_MAX:
            raise Unavailable("PROOFS_BUSY", "too many proofs wait to be noted", remedy="try again later")
        noted = asyncio.get_running_loop().create_future()
        self._waiting[digest] = (until, noted)
        if self._noting is None:
            self._noting = asyncio.create_task(self._note_all(), name="proofs-noting")
        first: bool = await noted
        return first

    async def _note_all(self) -> None:
        """Until none waits. What goes wrong is each caller's to hear."""
        try:
            while self._waiting:
                batch = {digest: self._waiting.pop(digest) for digest in list(self._waiting)[:BATCH_MAX]}
                try:
                    new = await self._note(batch, max(until for until, _ in batch.values()))
                except Exception as error:
                    for _, noted in batch.values():
                        if not noted.done():
                            noted.set_exception(error)
                else:
                    for digest, (_, noted) in batch.items():
                        if not noted.done():
                            noted.set_result(digest in new)
                if self._waiting:
                    await asyncio.sleep(GATHER_S)
        finally:
            self._noting = None

    async def _note(self, digests: Iterable[bytes], until: int) -> frozenset[bytes]:
        """Those that nobody had noted."""
        [row] = await execute(self._engine, NOTE, {"digests": b"".join(digests), "until": until})
        new = bytes(row.digests or b"")
        return frozenset(new[at : at + DIGEST_BYTES] for at in range(0, len(new), DIGEST_BYTES))

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
