"""The outward bridge's one connection to PostgreSQL: the lock of the active relay, and the outbox."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import psycopg

from mesh.database.connections import noticing
from security.audit.postgres import INSERT, parameters
from security.audit.record import AuditRecord
from sync_bridge.ledger.dead_letters import DeadLetter, bury

# Any number will do, as long as all relays of one database agree on it.
ADVISORY_LOCK: Final = 4_717_318_401

# Rows of one key become visible in the order of seq (see the outbox's own migrations). Rows of other keys may turn up
# late with a lower seq: so the relay remembers no position, it takes what is there and removes what it has sent.
_READ: Final = """
    SELECT seq, topic, key, payload, traceparent, (extract(epoch FROM created_time) * 1000)::bigint
    FROM outbox.event WHERE topic <> ALL(%s) ORDER BY seq LIMIT %s
"""


@dataclass(frozen=True, slots=True)
class Row:
    seq: int
    topic: str
    key: str
    # None: a tombstone.
    payload: bytes | None
    traceparent: str
    # Milliseconds since the epoch.
    created_ms: int


class Store:
    """Not for use by several threads at once."""

    def __init__(self, url: str, relay: str, statement_s_max: float, within: Iterable[str] = ()) -> None:
        """within: topics of rows that are none of ours. Raises psycopg.OperationalError while PostgreSQL is away."""
        self._within = sorted(within)
        limits = {
            "statement_timeout": int(statement_s_max * 1000),
            "idle_in_transaction_session_timeout": int(statement_s_max * 1000),
            "timezone": "UTC",
        }
        self._connection = psycopg.connect(
            url,
            application_name=relay,
            connect_timeout=3,
            autocommit=True,
            prepare_threshold=1,
            options=" ".join(f"-c {name}={value}" for name, value in limits.items()),
            **noticing(statement_s_max),
        )

    def close(self) -> None:
        self._connection.close()

    def try_lock(self) -> bool:
        """Become the active relay, until the connection ends."""
        row = self._connection.execute("SELECT pg_try_advisory_lock(%s)", (ADVISORY_LOCK,)).fetchone()
        return row is not None and bool(row[0])

    def read(self, limit: int) -> list[Row]:
        """The oldest rows, in their order."""
        return [Row(*values) for values in self._connection.execute(_READ, (self._within, limit), binary=True)]

    def remove(
        self,
        seqs: Sequence[int],
        letters: Sequence[DeadLetter],
        records: Sequence[AuditRecord] = (),
        newest: Sequence[Row] = (),
    ) -> None:
        """Take rows out of the outbox that were sent, or are buried and put on record in the same transaction.

        newest: those sent that make older letters of their keys worthless.
        """
        with self._connection.transaction():
            bury(self._connection, letters)
            if newest:
                places = ([row.topic for row in newest], [row.key for row in newest], [row.seq for row in newest])
                self._connection.execute("SELECT bridge.supersede(%s::text[], %s::text[], %s::bigint[])", places)
            if records:
                self._connection.execute(INSERT, parameters(records))
            self._connection.execute("DELETE FROM outbox.event WHERE seq = ANY(%s)", (list(seqs),))

    def waiting(self) -> tuple[int, float]:
        """Rows in the outbox, and the age of the oldest in seconds."""
        row = self._connection.execute(
            "SELECT count(*), coalesce(extract(epoch FROM clock_timestamp() - min(created_time)), 0)::float8"
            " FROM outbox.event WHERE topic <> ALL(%s)",
            (self._within,),
        ).fetchone()
        assert row is not None
        return row[0], max(0.0, row[1])
