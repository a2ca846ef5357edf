"""Who owns the tables, the files and the signing key still cannot take back what the witness has seen."""

import asyncio
import base64
from collections.abc import Sequence
from http import HTTPStatus

import pytest

from mesh.clock import SystemClock
from mesh.database.engine import async_engine
from security.audit.cosignature import Cosigner
from security.audit.findings import KeptNote, Report, Tampering
from security.audit.inspection import inspect
from security.audit.store import AuditStore
from security.audit.witness_client import OtherSize, WitnessRefused
from security.audit.witnessing import Witnessing
from security.witness.state import WitnessedLog
from security.witness.witness import Witness
from tests.integration.audit.kept_log import BATCH, LEAVES, Log, record
from tests.integration.room import own


async def asked(log: Log, witness: Witness) -> None:
    engine = async_engine(own(log.url, "audit"))
    try:
        await Witnessing(AuditStore(engine), InProcess(witness), witness_name(log)).round()
    finally:
        await engine.dispose()


class InProcess:
    """A witness without a wire between."""

    def __init__(self, witness: Witness) -> None:
        self._witness = witness

    async def add_checkpoint(self, old_size: int, proof: Sequence[bytes], note: str) -> str:
        lines = "".join(f"\n{base64.b64encode(each).decode()}" for each in proof)
        reply = self._witness.add_checkpoint(f"old {old_size}{lines}\n\n{note}")
        if reply.status == HTTPStatus.CONFLICT:
            raise OtherSize(int(reply.body))
        if reply.status != HTTPStatus.OK:
            raise WitnessRefused(reply.body)
        return reply.body


def witness_name(log: Log) -> str:
    return Cosigner.open_or_create(log.home / "witness.key", "isthmus.internal/witness").verifier.name


def witness_of(log: Log) -> Witness:
    (log.home / "log.pub").write_text(f"{log.signer.verifier}\n")
    cosigner = Cosigner.open_or_create(log.home / "witness.key", "isthmus.internal/witness")
    state = WitnessedLog(log.home / "witness" / "newest.txt", log.home / "log.pub")
    state.load(cosigner.verifier)
    return Witness(state, cosigner, SystemClock())


def test_a_witness_sees_what_the_owner_of_everything_here_did(log: Log) -> None:
    witness = witness_of(log)
    asyncio.run(asked(log, witness))
    cosigner = Cosigner.open_or_create(log.home / "witness.key", "isthmus.internal/witness")
    seen = KeptNote((log.home / "witness" / "newest.txt").read_text(), "the witness")

    def verified(*elsewhere: KeptNote) -> Report:
        now_us = SystemClock().now_us() + 3600 * 1_000_000
        return inspect(log.url, log.file, log.signer.verifier, now_us, elsewhere, cosigner.verifier)

    report = verified(seen)
    assert report.ok, report.findings
    assert report.witnessed is not None
    assert report.witnessed.size == LEAVES
    # Tables, checkpoints, the file and the signing key: all of it is theirs, and they cut the tail off.
    cut_from = log.sequence(20)
    log.sql("DELETE FROM audit.cosignature")
    log.cut()
    log.sql("DELETE FROM audit.leaf WHERE leaf_index >= 20", f"DELETE FROM audit.record WHERE sequence >= {cut_from}")
    log.checkpoints.unlink()
    log.sign()
    kinds = {finding.kind for finding in verified(seen).findings}
    assert Tampering.CUT in kinds, verified(seen).findings
    with pytest.raises(OtherSize):
        asyncio.run(asked(log, witness_of(log)))
    # They tell another story, longer than the first.
    log.write(*(record(number) for number in range(2 * BATCH)))
    log.sign()
    assert Tampering.FORKED in {finding.kind for finding in verified(seen).findings}, verified(seen).findings
    with pytest.raises(WitnessRefused):
        asyncio.run(asked(log, witness_of(log)))
    # And when the witness is asked for and nobody shows what it keeps, that is named as well.
    assert {finding.kind for finding in verified().findings} == {Tampering.UNWITNESSED}
