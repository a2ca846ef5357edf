"""The AuditLog service: the log as the security team reads it. Its own reads are on record like any other call."""

from typing import Any, Final

from isthmus.audit.v1 import audit_pb2 as pb
from isthmus.audit.v1 import audit_pb2_grpc

from security.audit.record import Decision
from security.audit.store import AuditStore, Selection, StoredRecord

PAGE_SIZE: Final = 100
PAGE_SIZE_MAX: Final = 1000


class AuditLogService(audit_pb2_grpc.AuditLogServicer):
    def __init__(self, store: AuditStore) -> None:
        self._store = store

    async def ListRecords(self, request: pb.ListRecordsRequest, context: Any) -> pb.ListRecordsResponse:
        selection = Selection(
            # A sequence is signed in SQL; beyond its end lies nothing.
            after_sequence=min(request.after_sequence, 2**63 - 1),
            method=request.method,
            token_subject=request.token_subject,
            data_subject=request.data_subject,
            decision=Decision(int(request.decision)) if request.decision else None,
        )
        records = await self._store.list(selection, min(request.page_size or PAGE_SIZE, PAGE_SIZE_MAX))
        return pb.ListRecordsResponse(records=map(_message, records))


def _message(stored: StoredRecord) -> pb.AuditRecord:
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
    )
