"""Verify the log as it lies in PostgreSQL, reading the tables and not asking the audit process."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import psycopg
from sqlalchemy import make_url

from security.audit.checkpoint import Checkpoint, CheckpointFile
from security.audit.cosignature import WitnessVerifier, newest_witnessed
from security.audit.findings import KeptNote, Leaf, Report, Row, Tampering
from security.audit.note import Verifier
from security.audit.record import AuditRecord, Decision
from security.audit.verify import verify

HANDED_OUT_S_MAX: Final = 10
# The other zone may be away for a while.
WITNESSED_S_MAX: Final = 600
_PAGE: Final = 5000
_STATEMENT_MS_MAX: Final = 60_000
_DECISIONS: Final = {int(decision): decision for decision in Decision}
_FIELDS: Final = ", ".join(
    "replace(record_id::text, '-', '')" if name == "record_id" else name for name in AuditRecord.__slots__
)
_ROWS: Final = f"SELECT sequence, leaf_hash, {_FIELDS} FROM audit.record ORDER BY sequence"  # noqa: S608
_LEAVES: Final = "SELECT leaf_index, record_sequence, leaf_hash FROM audit.leaf ORDER BY leaf_index"
_CHECKPOINTS: Final = "SELECT note, subtrees FROM audit.checkpoint ORDER BY tree_size"
# By now they are in the file too.
_OVERDUE: Final = "SELECT coalesce(max(tree_size), 0) FROM audit.checkpoint WHERE time_us < %s"
_DECISION_AT: Final = AuditRecord.__slots__.index("decision")


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
        with _pages(connection, "rows", _ROWS) as rows, _pages(connection, "leaves", _LEAVES) as leaves:
            notes = [KeptNote(note, "the database", bytes(sub)) for note, sub in connection.execute(_CHECKPOINTS)]
            given = [*notes, *kept, *elsewhere]
            report = verify(map(_row, rows), (Leaf(*leaf) for leaf in leaves), given, verifier)
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
    # Binary: hashes come as they are. A cursor of the server: the log may be larger than memory.
    with connection.cursor(name, binary=True) as cursor:
        cursor.itersize = _PAGE
        cursor.execute(query)
        yield iter(cursor)


def _row(columns: tuple[Any, ...]) -> Row:
    sequence, leaf_hash, *fields = columns
    fields[_DECISION_AT] = _DECISIONS.get(fields[_DECISION_AT])
    return Row(sequence, AuditRecord(*fields) if None not in fields else None, leaf_hash)
