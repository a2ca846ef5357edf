"""The AuditLog service: the log as the security team reads it. Its own reads are on record like any other call."""

from dataclasses import asdict
from typing import Any, Final

from isthmus.audit.v1 import audit_pb2 as pb
from isthmus.audit.v1 import audit_pb2_grpc

from mesh.call import current_call
from mesh.clock import Clock, SystemClock
from mesh.errors import FailedPrecondition
from security.audit import attached
from security.audit.record import Decision, clean
from security.audit.removal import DAY_US
from security.audit.store import AuditStore, RemovalProof, Selection, StoredCheckpoint, StoredRecord
from security.audit.subjects import Subjects

PAGE_SIZE: Final = 100
PAGE_SIZE_MAX: Final = 1000
REMOVALS_MAX: Final = 100
# Sequences and indices are signed in SQL; beyond their end lies nothing.
_POSITION_MAX: Final = 2**63 - 1
_APART_US_MAX: Final = 300_000_000


class AuditLogService(audit_pb2_grpc.AuditLogServicer):
    """subjects: how the log names what is no id, so that it is found by whoever knows it."""

    def __init__(self, store: AuditStore, subjects: Subjects, clock: Clock | None = None) -> None:
        self._store = store
        self._subjects = subjects
        self._clock = clock or SystemClock()

    async def ListRecords(self, request: pb.ListRecordsRequest, context: Any) -> pb.ListRecordsResponse:
        selection = Selection(
            after_sequence=_position(request.after_sequence),
            method=request.method,
            token_subject=request.token_subject,
            data_subject=self._subjects.named(clean(request.data_subject)),
            decision=Decision(int(request.decision)) if request.decision else None,
            peer=request.peer,
            trace_id=request.trace_id,
            from_time_us=request.from_time_us,
            to_time_us=request.to_time_us,
            newest_first=request.newest_first,
            before_sequence=_position(request.before_sequence),
        )
        records = await self._store.list(selection, _page(request.page_size))
        return pb.ListRecordsResponse(records=map(_record, records))

    async def ListLeaves(self, request: pb.ListLeavesRequest, context: Any) -> pb.ListLeavesResponse:
        first, end = _position(request.first_leaf), _position(request.end_leaf)
        records = await self._store.leaves(first, end, _page(request.page_size))
        return pb.ListLeavesResponse(records=map(_record, records))

    async def ListCheckpoints(self, request: pb.ListCheckpointsRequest, context: Any) -> pb.ListCheckpointsResponse:
        after, limit = _position(request.after_tree_size), _page(request.page_size)
        checkpoints = await self._store.checkpoints(after, limit, request.newest_first)
        return pb.ListCheckpointsResponse(checkpoints=map(_checkpoint, checkpoints))

    async def ProveRange(self, request: pb.ProveRangeRequest, context: Any) -> pb.ProveRangeResponse:
        proof = await self._store.prove_range(request.from_time_us, request.to_time_us)
        if proof is None:
            return pb.ProveRangeResponse()
        return pb.ProveRangeResponse(
            checkpoint=_checkpoint(proof.checkpoint),
            first_leaf=proof.first,
            end_leaf=proof.end,
            before=proof.before,
            behind=proof.behind,
        )

    async def ListRemovedLeaves(
        self, request: pb.ListRemovedLeavesRequest, context: Any
    ) -> pb.ListRemovedLeavesResponse:
        first, end = _position(request.first_leaf), _position(request.end_leaf)
        leaves = await self._store.removed(first, end, _page(request.page_size))
        return pb.ListRemovedLeavesResponse(leaves=(pb.RemovedLeaf(**asdict(leaf)) for leaf in leaves))

    async def ProveRemovals(self, request: pb.ProveRemovalsRequest, context: Any) -> pb.ProveRemovalsResponse:
        first, end, after = map(_position, (request.first_leaf, request.end_leaf, request.after_removal))
        proofs = await self._store.removals(first, end, after, request.page_size or REMOVALS_MAX)
        return pb.ProveRemovalsResponse(removals=map(_removal, proofs))

    async def RecordActivity(self, request: pb.RecordActivityRequest, context: Any) -> pb.RecordActivityResponse:
        # The recorder holds the answer back until the record of this call, with the note on it, is durable.
        said = pb.Activity.Name(request.activity).removeprefix("ACTIVITY_")
        attached.note(f"{said} {request.about}".rstrip())
        return pb.RecordActivityResponse(trace_id=current_call().trace_id)

    async def AcceptClock(self, request: pb.AcceptClockRequest, context: Any) -> pb.AcceptClockResponse:
        now_us = self._clock.now_us()
        if abs(request.now_us - now_us) > _APART_US_MAX:
            raise FailedPrecondition(
                "CLOCKS_DISAGREE",
                "the log's clock and yours are more than five minutes apart",
                remedy="Set right the one that is wrong, and ask again.",
            )
        before_us = await self._store.accept_clock(now_us)
        attached.note(f"CLOCK_ACCEPTED {(now_us - before_us) // DAY_US} days ahead")
        return pb.AcceptClockResponse(before_us=before_us)


def _position(number: int) -> int:
    return min(number, _POSITION_MAX)


def _page(size: int) -> int:
    return min(size or PAGE_SIZE, PAGE_SIZE_MAX)


def _checkpoint(stored: StoredCheckpoint) -> pb.Checkpoint:
    return pb.Checkpoint(tree_size=stored.tree_size, time_us=stored.time_us, note=stored.note)


def _removal(proof: RemovalProof) -> pb.Removal:
    return pb.Removal(
        record=_record(proof.record),
        note=proof.note,
        before_count=proof.before.end,
        before=proof.before.hashes,
        behind=proof.behind,
    )


def _record(stored: StoredRecord) -> pb.AuditRecord:
    record = stored.record
    return pb.AuditRecord(
        sequence=stored.sequence,
        time_us=record.time_us,
        peer=record.peer,
        token_subject=record.token_subject,
        token_client=record.token_client,
        method=record.method,
        data_subject=record.data_subject,
        decision=pb.Decision.ValueType(int(record.decision)),
        result=record.result,
        reason=record.reason,
        trace_id=record.trace_id,
        workload=record.workload,
        node=record.node,
        leaf_hash=stored.leaf_hash,
        record_id=record.record_id,
        leaf_index=stored.leaf_index,
    )
