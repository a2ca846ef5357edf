"""The tree in PostgreSQL: gives committed records their leaves and keeps the checkpoints signed over them."""

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mesh.clock import Clock
from mesh.database.engine import transact
from security.audit.checkpoint import Checkpoint
from security.audit.merkle import HASH_BYTES, CompactRange
from security.audit.note import NoteRejected, Signer
from security.audit.store import newest_sequence

LEAVES_MAX: Final = 10_000

# One process at a time gives leaves: a second one waits, and then goes on where the first one ended.
_ALONE: Final = text("SELECT pg_advisory_xact_lock(hashtextextended('audit.leaf', 0))")
_LAST_LEAF: Final = text("SELECT leaf_index, record_sequence FROM audit.leaf ORDER BY leaf_index DESC LIMIT 1")
_WAITING: Final = text(
    "SELECT EXISTS (SELECT FROM audit.record WHERE sequence >"
    " (SELECT coalesce(max(record_sequence), 0) FROM audit.leaf))"
)
_NEWEST: Final = text("SELECT tree_size, subtrees, note FROM audit.checkpoint ORDER BY tree_size DESC LIMIT 1")
_GIVE: Final = text(
    """
    INSERT INTO audit.leaf (leaf_index, record_sequence, leaf_hash)
    SELECT :size + row_number() OVER (ORDER BY sequence) - 1, sequence, leaf_hash FROM (
        SELECT sequence, leaf_hash FROM audit.record
        WHERE sequence > :after AND sequence <= :until ORDER BY sequence LIMIT :limit
    ) AS waiting
    RETURNING leaf_index, leaf_hash
    """
)
_KEEP: Final = text(
    "INSERT INTO audit.checkpoint (tree_size, time_us, subtrees, note) VALUES (:size, :time_us, :subtrees, :note)"
)


class LogDamaged(Exception):
    """The tables do not hold what was signed. Nothing more is signed on top of that."""


@dataclass(frozen=True, slots=True)
class Signed:
    note: str
    checkpoint: Checkpoint
    # How many leaves are new under it.
    grown: int


class TreeStore:
    def __init__(self, engine: AsyncEngine, signer: Signer, clock: Clock) -> None:
        self._engine = engine
        self._signer = signer
        self._clock = clock

    async def grow(self, floor: Checkpoint | None, limit: int = LEAVES_MAX) -> Signed | None:
        """Give up to `limit` records that have none a leaf, and sign the tree. None: there is no tree yet.

        floor: a checkpoint that was handed out; the log must not fall behind it. Raises LogDamaged.
        """
        until = 0
        if await transact(self._engine, _waiting):
            # In a transaction of its own: writers wait while it lasts.
            until = await transact(self._engine, newest_sequence)
        try:
            return await transact(self._engine, lambda connection: self._grow(connection, floor, until, limit))
        except IntegrityError as error:
            raise LogDamaged("the tables refuse the next leaves: some of them are there already") from error

    async def _grow(
        self, connection: AsyncConnection, floor: Checkpoint | None, until: int, limit: int
    ) -> Signed | None:
        await connection.execute(_ALONE)
        newest = (await connection.execute(_NEWEST)).one_or_none()
        tree = self._trusted(newest, floor)
        last = (await connection.execute(_LAST_LEAF)).one_or_none()
        if (last.leaf_index + 1 if last else 0) != tree.end:
            raise LogDamaged(f"the newest checkpoint covers {tree.end} leaves, and these are not the leaves there are")
        after = last.record_sequence if last else 0
        given = {"size": tree.end, "after": after, "until": until, "limit": limit}
        leaves = (await connection.execute(_GIVE, given)).all() if until > after else ()
        if not leaves:
            return Signed(newest.note, Checkpoint.parse(newest.note), 0) if newest else None
        for _, leaf_hash in sorted(leaves):
            tree.append(bytes(leaf_hash))
        checkpoint = Checkpoint(self._signer.verifier.name, tree.end, tree.root())
        note = self._signer.sign(checkpoint.text)
        kept = {"size": tree.end, "time_us": self._clock.now_us(), "subtrees": b"".join(tree.hashes), "note": note}
        await connection.execute(_KEEP, kept)
        return Signed(note, checkpoint, len(leaves))

    def _trusted(self, newest: Any, floor: Checkpoint | None) -> CompactRange:
        """The tree to go on with, as the signature on its root vouches for it."""
        if newest is None:
            tree = CompactRange()
        else:
            hashes = (newest.subtrees[at : at + HASH_BYTES] for at in range(0, len(newest.subtrees), HASH_BYTES))
            try:
                checkpoint = Checkpoint.open(newest.note, self._signer.verifier)
                tree = CompactRange(0, newest.tree_size, map(bytes, hashes))
            except (NoteRejected, ValueError) as error:
                raise LogDamaged(f"the newest checkpoint does not count: {error}") from error
            if (checkpoint.size, checkpoint.root) != (tree.end, tree.root()):
                raise LogDamaged("the newest checkpoint is not of the tree that is kept with it")
        if floor and (floor.size > tree.end or (floor.size == tree.end and floor.root != tree.root())):
            raise LogDamaged(f"a checkpoint of size {floor.size} was handed out, and the log is not what it was then")
        return tree


async def _waiting(connection: AsyncConnection) -> bool:
    return bool((await connection.execute(_WAITING)).scalar_one())
