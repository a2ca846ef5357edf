"""A small signed log, and the hand of somebody who owns the database and changes it."""

import asyncio
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from mesh.clock import SystemClock
from mesh.database.engine import async_engine
from security.audit.checkpoint import CHECKPOINT_FILE, CheckpointFile
from security.audit.findings import Report
from security.audit.inspection import inspect
from security.audit.note import Signer, Verifier
from security.audit.postgres import PostgresAuditSink
from security.audit.record import AuditRecord, Decision
from security.audit.sequencer import Sequencer
from security.audit.tree_store import TreeStore
from tests.integration.room import own, plain

ORIGIN = "isthmus.internal/audit"
# So many rows are under each of the first checkpoints.
BATCH = 10
BATCHES = 3
LEAVES = BATCH * BATCHES
TABLES = ("record", "leaf", "checkpoint", "cosignature", "removal", "removed")
COLUMNS = (
    "record_id, time_us, peer, token_subject, token_client, method, data_subject, decision, result, reason, trace_id,"
    " workload, node, leaf_hash"
)


def record(number: int) -> AuditRecord:
    return AuditRecord(
        record_id=secrets.token_hex(16),
        time_us=1_700_000_000_000_000 + number,
        peer="spiffe://isthmus.internal/private/core-gateway",
        token_subject="member-1",
        token_client="storefront",
        method="/isthmus.members.v1.Members/GetMember",
        data_subject=f"member-{number}",
        decision=Decision.ALLOWED,
        result="OK",
        reason="",
        trace_id="f" * 32,
        workload="members",
        node="members-1",
    )


@dataclass
class Log:
    """A log of three batches in a home of its own, and the hand that changes it."""

    url: str
    home: Path
    signer: Signer

    @property
    def checkpoints(self) -> Path:
        return self.home / CHECKPOINT_FILE

    @property
    def file(self) -> CheckpointFile:
        return CheckpointFile(self.checkpoints)

    def write(self, *records: AuditRecord) -> None:
        asyncio.run(self._write(*records))

    def sign(self) -> None:
        asyncio.run(self._sign())

    async def written(self, *records: AuditRecord) -> None:
        """Write and sign, in a test that has a loop of its own."""
        await self._write(*records)
        await self._sign()

    async def _write(self, *records: AuditRecord) -> None:
        sink = PostgresAuditSink(async_engine(own(self.url, "audit")))
        await sink.start()
        for each in records:
            await sink.append(each)
        await sink.stop(5)

    async def _sign(self) -> None:
        engine = async_engine(own(self.url, "audit"))
        store = TreeStore(engine, self.signer, SystemClock())
        try:
            await Sequencer(store, self.signer.verifier, [self.file]).round()
        finally:
            await engine.dispose()

    def sql(self, *statements: str) -> None:
        """What a superuser can do by hand."""
        with psycopg.connect(plain(self.url)) as connection:
            for table in TABLES:
                connection.execute(f"ALTER TABLE audit.{table} DISABLE TRIGGER ALL")
            for statement in statements:
                connection.execute(statement)
            for table in TABLES:
                connection.execute(f"ALTER TABLE audit.{table} ENABLE TRIGGER ALL")

    def one(self, query: str) -> Any:
        with psycopg.connect(plain(self.url)) as connection:
            found = connection.execute(query).fetchone()
        assert found is not None
        return found[0]

    def sequence(self, leaf: int) -> int:
        return int(self.one(f"SELECT record_sequence FROM audit.leaf WHERE leaf_index = {leaf}"))

    def row(self, leaf: int) -> AuditRecord:
        columns = ", ".join(AuditRecord.__struct_fields__)
        with psycopg.connect(plain(self.url)) as connection:
            found = connection.execute(
                f"SELECT {columns} FROM audit.record WHERE sequence = %s", (self.sequence(leaf),)
            ).fetchone()
        assert found is not None
        values = dict(zip(AuditRecord.__struct_fields__, found, strict=True))
        return AuditRecord(**values | {"record_id": found[0].hex, "decision": Decision(values["decision"])})

    def verify(self, verifier: Verifier | None = None, later_s: int = 0) -> Report:
        now_us = SystemClock().now_us() + later_s * 1_000_000
        return inspect(self.url, self.file, verifier or self.signer.verifier, now_us)

    def cut(self) -> None:
        """Take the newest rows away with all that the database knows of them."""
        self.sql(
            f"DELETE FROM audit.record WHERE sequence >= {self.sequence(25)}",
            "DELETE FROM audit.leaf WHERE leaf_index >= 25",
        )
        self.sql("DELETE FROM audit.checkpoint WHERE tree_size > 25")
