"""Removes records that were kept for as long as the contract keeps those of their class. Their leaves stay.

A record's class is that of its method's answer. What the contract does not know as a method, or no longer, is kept for
as long as the class that is kept longest. Records of removals stay for ever: they are what explains the holes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from mesh.contract import Contract
from mesh.contract.model import DataClass
from mesh.database.engine import transact
from security.audit import merkle
from security.audit.note import Signer
from security.audit.removal import AUDITED_AS, Remover
from security.audit.tombstones import PLACE, Removal, statement
from security.audit.transactional import record

INTERVAL_S: Final = 3600.0
# While one transaction lasts, no new leaf is given.
_BATCH: Final = 2000
_BATCHES_MAX: Final = 500

_ALONE: Final = text("SELECT pg_advisory_xact_lock(hashtextextended('audit.removal', 0))")
_PAST: Final = text(
    """
    SELECT leaf_index, leaf.leaf_hash, sequence FROM audit.record JOIN audit.leaf ON record_sequence = sequence
    WHERE time_us < :before AND method <> :never AND (method = ANY(:methods)) = :among
    ORDER BY leaf_index LIMIT :limit
    """
)
_KEEP: Final = text(
    """
    INSERT INTO audit.removal (sequence, first_leaf, end_leaf, note)
    SELECT sequence, :first, :end, :note FROM audit.record WHERE record_id = CAST(:record_id AS uuid) RETURNING sequence
    """
)
_BURY: Final = text(
    "INSERT INTO audit.removed (leaf_index, removal) SELECT unnest(CAST(:leaves AS bigint[])), :removal"
)
_REMOVE: Final = text("DELETE FROM audit.record WHERE sequence = ANY(:sequences)")


@dataclass(frozen=True, slots=True)
class Rule:
    """Records of these methods, or of all but these, are kept for so many days."""

    data_class: DataClass
    days: int
    methods: Sequence[str]
    among: bool = True


def rules(contract: Contract) -> Iterator[Rule]:
    """What is kept for ever has none."""
    *lower, longest = sorted(contract.recorded_days)
    named: list[str] = []
    for data_class in lower:
        methods = [path for path, method in contract.methods.items() if method.answer_class is data_class]
        named += methods
        if contract.recorded_days[data_class] and methods:
            yield Rule(data_class, contract.recorded_days[data_class], methods)
    if contract.recorded_days[longest]:
        yield Rule(longest, contract.recorded_days[longest], named, among=False)


class LogRetention:
    """Of one log; a second one at once waits, and then finds nothing to do."""

    def __init__(self, engine: AsyncEngine, contract: Contract, remover: Remover, signer: Signer) -> None:
        self._engine = engine
        self._rules = tuple(rules(contract))
        self._remover = remover
        self._signer = signer

    async def round(self) -> int:
        """Remove what is past its rule. Gives how many records. Raises MeshError."""
        moment = await self._remover.moment(self._engine)
        return sum([await self._follow(rule, moment.before_us(rule.days)) for rule in self._rules])

    async def _follow(self, rule: Rule, before_us: int) -> int:
        gone = 0
        for _ in range(_BATCHES_MAX):
            removed = await transact(self._engine, lambda connection: self._step(connection, rule, before_us))
            gone += removed
            if removed < _BATCH:
                break
        return gone

    async def _step(self, connection: AsyncConnection, rule: Rule, before_us: int) -> int:
        await connection.execute(_ALONE)
        asked = {
            "methods": rule.methods,
            "among": rule.among,
            "never": AUDITED_AS,
            "limit": _BATCH,
            "before": before_us,
        }
        past = (await connection.execute(_PAST, asked)).all()
        if not past:
            return 0
        root = merkle.root(bytes(each.leaf_hash) for each in past)
        first, end = past[0].leaf_index, past[-1].leaf_index + 1
        removal = Removal(len(past), first, end, rule.data_class.name, rule.days, root)
        said = self._remover.record(PLACE, removal.count, how=removal.how)
        note = self._signer.sign(statement(self._signer.verifier.name, said.leaf_hash()))
        await record(connection, said)
        kept = {"record_id": said.record_id, "first": first, "end": end, "note": note}
        sequence = (await connection.execute(_KEEP, kept)).scalar_one()
        await connection.execute(_BURY, {"leaves": [each.leaf_index for each in past], "removal": sequence})
        await connection.execute(_REMOVE, {"sequences": [each.sequence for each in past]})
        return len(past)
