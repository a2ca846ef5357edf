"""Verify the log as it lies in PostgreSQL, reading the tables and not asking the audit process."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import starmap
from typing import Any, Final

import psycopg
from sqlalchemy import make_url

from security.audit.checkpoint import Checkpoint, CheckpointFile
from security.audit.cosignature import WitnessVerifier, newest_witnessed
from security.audit.findings import KeptNote, Leaf, Report, Row, Tampering
from security.audit.note import Verifier
from security.audit.record import AuditRecord, Decision
from security.audit.tombstones import KeptRemoval, Tombstone, Tombstones
from security.audit.verify import verify

HANDED_OUT_S_MAX: Final = 10
# The other zone may be away for a while.
WITNESSED_S_MAX: Final = 600
_PAGE: Final = 5000
_STATEMENT_MS_MAX: Final = 60_000
# Rows come in their canonical form (record.py): PostgreSQL writes text and whole numbers in JSON as RFC 8785 asks, and
# does so while the page before is hashed here. A row that no record can be has a null, and hashes to something else.
_DECISIONS: Final = " ".join(f"WHEN {decision.value} THEN '{decision.name}'" for decision in Decision)
_CANONICAL: Final = {
    "record_id": "pg_catalog.replace(record_id::text, '-', '')",
    "decision": f"CASE decision {_DECISIONS} END",
}
_FIELDS: Final = ", ".join(f"{_CANONICAL.get(name, name)} AS {name}" for name in sorted(AuditRecord.__struct_fields__))
ROWS: Final = f"""
    SELECT sequence, pg_catalog.convert_to(pg_catalog.row_to_json(canonical)::text, 'UTF8'), leaf_hash
    FROM audit.record CROSS JOIN LATERAL (SELECT {_FIELDS}) AS canonical ORDER BY sequence
    """  # noqa: S608
_REMOVALS: Final = f"""
    SELECT removal.sequence, note, pg_catalog.convert_to(pg_catalog.row_to_json(canonical)::text, 'UTF8')
    FROM audit.removal LEFT JOIN audit.record USING (sequence) CROSS JOIN LATERAL (SELECT {_FIELDS}) AS canonical
    """  # noqa: S608
_TOMBSTONES: Final = "SELECT leaf_index, removal FROM audit.removed ORDER BY leaf_index"
_LEAVES: Final = "SELECT leaf_index, record_sequence, leaf_hash FROM audit.leaf ORDER BY leaf_index"
_CHECKPOINTS: Final = "SELECT note, subtrees FROM audit.checkpoint ORDER BY tree_size"
# By now they are in the file too.
_OVERDUE: Final = "SELECT coalesce(max(tree_size), 0) FROM audit.checkpoint WHERE time_us < %s"


def inspect(
    url: str,
    file: CheckpointFile,
    verifier: Verifier,
    now_us: int,
    elsewhere: Sequence[KeptNote] = (),
    witness: WitnessVerifier | None = None,
) -> Report:
    """Compare the tables of one moment with each other, with the checkpoint file and with the key.

    url: SQLAlchemy's. elsewhere: checkpoints that others keep. witness: whose cosignature is asked for.

    Raises psycopg.Error and OSError.
    """
    # Before the tables: what is handed out later than they are read would look like cut off.
    kept = [KeptNote(note, "the checkpoint file") for note in file.notes()]
    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    options = f"-c statement_timeout={_STATEMENT_MS_MAX} -c default_transaction_isolation=repeatable\\ read"
    with psycopg.connect(plain, connect_timeout=3, options=options, application_name="audit-verify") as connection:
        connection.read_only = True
        with (
            _pages(connection, "rows", ROWS) as rows,
            _pages(connection, "leaves", _LEAVES) as leaves,
            _pages(connection, "tombstones", _TOMBSTONES) as removed,
        ):
            notes = [KeptNote(note, "the database", bytes(sub)) for note, sub in connection.execute(_CHECKPOINTS)]
            given = [*notes, *kept, *elsewhere]
            removals = connection.execute(_REMOVALS, binary=True).fetchall()
            tombstones = Tombstones(starmap(KeptRemoval, removals), starmap(Tombstone, removed))
            report = verify(starmap(Row, rows), starmap(Leaf, leaves), given, verifier, tombstones=tombstones)
            overdue, unseen = (
                (connection.execute(_OVERDUE, (now_us - limit_s * 1_000_000,)).fetchone() or (0,))[0]
                for limit_s in (HANDED_OUT_S_MAX, WITNESSED_S_MAX)
            )
    newest = max((Checkpoint.parse(each.note).size for each in kept), default=0)
    if overdue > newest:
        message = f"the checkpoint file ends at size {newest} and should end at {overdue}: cut, or it cannot be written"
        report.add(Tampering.CUT, message, leaf_index=newest, leaf_end=overdue)
    if witness is not None:
        report.witnessed = newest_witnessed(given, verifier, witness)
        size = report.witnessed.size if report.witnessed else 0
        if unseen > size:
            message = f"{witness.name} has cosigned {size} leaves and should have cosigned {unseen}"
            report.add(Tampering.UNWITNESSED, message, leaf_index=size, leaf_end=unseen)
    return report


@contextmanager
def _pages(connection: psycopg.Connection[Any], name: str, query: str) -> Iterator[Iterator[tuple[Any, ...]]]:
    """The rows of a query, in pages of which the next one is fetched while this one is looked at."""
    # Binary: hashes come as they are. A cursor of the server: the log may be larger than memory.
    with ThreadPoolExecutor(1) as ahead, connection.cursor(name, binary=True) as cursor:
        cursor.execute(query)
        yield _read(cursor, ahead)


def _read(cursor: psycopg.ServerCursor[Any], ahead: Executor) -> Iterator[tuple[Any, ...]]:
    coming = ahead.submit(cursor.fetchmany, _PAGE)
    while page := coming.result():
        coming = ahead.submit(cursor.fetchmany, _PAGE)
        yield from page
