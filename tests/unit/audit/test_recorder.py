"""No record, no answer, where the contract says so; and a record of every call, however it ends."""

import asyncio
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest
from isthmus.members.v1 import members_pb2 as pb

from mesh.admission import Admission
from mesh.call import Call, Claims
from mesh.contract import MethodPolicy, load
from mesh.contract.model import AuditLevel
from mesh.errors import PermissionDenied
from mesh.redaction import Redaction
from mesh.settings import ProcessSettings
from mesh.spiffe import SpiffeId
from security.audit.port import AuditUnavailable
from security.audit.record import AuditRecord, Decision
from security.audit.recorder import CallRecorder

PATH = "/isthmus.members.v1.Members/GetMember"
REQUEST = pb.GetMemberRequest(member_id="member-1")


@dataclass
class Sink:
    """Keeps records, or fails, as the test wants."""

    is_open: bool = True
    writes: bool = True
    durable: list[AuditRecord] = field(default_factory=list)
    queued: list[AuditRecord] = field(default_factory=list)

    def require_open(self) -> None:
        if not self.is_open:
            raise AuditUnavailable

    async def append(self, record: AuditRecord) -> None:
        await asyncio.sleep(0)
        if not self.writes:
            raise AuditUnavailable
        self.durable.append(record)

    def enqueue(self, record: AuditRecord) -> None:
        if not self.writes:
            raise AuditUnavailable
        self.queued.append(record)


class Handler:
    """Answers, fails or is cancelled, as the test wants."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error
        self.calls = 0

    async def __call__(self, request: Any, context: Any) -> str:
        self.calls += 1
        if self.error is not None:
            raise self.error
        return "answer"


async def call(sink: Sink, handler: Handler, level: AuditLevel = AuditLevel.REQUIRED) -> Any:
    """One call of GetMember by the core gateway for member-1, with the method at `level`."""
    method: MethodPolicy = replace(load().methods[PATH], audit=level)
    settings = ProcessSettings(
        zone="private", workload="members", node="members-1", identity_dir=Path("identity"), home=Path("home")
    )
    claims = Claims("member-1", "storefront", frozenset(), 0, "t")
    made = Call(method, SpiffeId("private", "core-gateway"), time.monotonic() + 1, "00-" + "a" * 32, claims=claims)
    admission = Admission((), CallRecorder(sink, settings), 0.0, Redaction(load()))
    return await admission.checked(method, handler)(made, REQUEST, cast(Any, None))


async def test_an_answer_has_a_durable_record() -> None:
    sink = Sink()
    assert await call(sink, Handler()) == "answer"
    (record,) = sink.durable
    assert (record.peer, record.token_subject, record.token_client) == (
        "spiffe://isthmus.internal/private/core-gateway",
        "member-1",
        "storefront",
    )
    assert (record.method, record.data_subject, record.decision) == (PATH, "member-1", Decision.ALLOWED)
    assert (record.result, record.reason, record.trace_id) == ("OK", "", "a" * 32)


async def test_a_refusal_has_a_durable_record_too() -> None:
    sink = Sink()
    with pytest.raises(PermissionDenied):
        await call(sink, Handler(PermissionDenied("SCOPE_MISSING", "no")))
    (record,) = sink.durable
    assert (record.decision, record.result, record.reason) == (Decision.DENIED, "PERMISSION_DENIED", "SCOPE_MISSING")


@pytest.mark.parametrize("error", [None, PermissionDenied("SCOPE_MISSING", "no"), ValueError("secret")])
async def test_no_record_no_answer(error: Exception | None) -> None:
    with pytest.raises(AuditUnavailable):
        await call(Sink(writes=False), Handler(error))


async def test_while_the_log_fails_no_work_is_begun() -> None:
    handler = Handler()
    with pytest.raises(AuditUnavailable):
        await call(Sink(is_open=False), handler)
    assert handler.calls == 0


async def test_a_fault_is_on_record_by_its_type_alone() -> None:
    sink = Sink()
    with pytest.raises(ValueError, match="secret"):
        await call(sink, Handler(ValueError("secret")))
    assert (sink.durable[0].result, sink.durable[0].reason) == ("INTERNAL", "ValueError")


async def test_a_cancelled_call_is_on_record() -> None:
    sink = Sink()
    with pytest.raises(asyncio.CancelledError):
        await call(sink, Handler(asyncio.CancelledError()))
    assert sink.queued[0].result == "CANCELLED"


async def test_at_level_record_nobody_waits_but_a_full_queue_refuses() -> None:
    sink = Sink()
    assert await call(sink, Handler(), AuditLevel.RECORD) == "answer"
    assert len(sink.queued) == 1
    assert not sink.durable
    with pytest.raises(AuditUnavailable):
        await call(Sink(writes=False), Handler(), AuditLevel.RECORD)


async def test_at_level_none_there_is_no_record() -> None:
    sink = Sink()
    assert await call(sink, Handler(), AuditLevel.NONE) == "answer"
    assert not sink.durable
    assert not sink.queued
