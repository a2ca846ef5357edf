"""Leaves an audit record of every call, allowed or denied, at the level that the method's policy asks for.

Stands around the peer check and the token check, so that whom they refuse is on record too, and inside of the
translation of errors, so that no answer leaves before its record.
"""

import asyncio
from collections.abc import Awaitable
from functools import partial
from typing import Any, Final

import grpc

from mesh.call import Call
from mesh.clock import Clock, SystemClock
from mesh.contract import MethodPolicy
from mesh.contract.model import AuditLevel
from mesh.errors import MeshError
from mesh.settings import ProcessSettings
from security.audit.attached import Attached, begin
from security.audit.port import AuditSink
from security.audit.record import AuditRecord, Decision, clean, new_record_id
from security.audit.subjects import Subjects

_DENIED: Final = frozenset({grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED})


class CallRecorder:
    """For `ServerBuilder(process, audit=...)` of every private service."""

    def __init__(self, sink: AuditSink, settings: ProcessSettings, clock: Clock | None = None) -> None:
        self._sink = sink
        self._workload, self._node = settings.workload, settings.node
        self._clock = clock or SystemClock()
        self._subjects = Subjects.below(settings.home)

    def records(self, method: MethodPolicy) -> "_Records | None":
        """None at level NONE."""
        if method.audit is AuditLevel.NONE:
            return None
        return _Records(method, self._sink, self._workload, self._node, self._clock, self._subjects)


class _Records:
    """mesh.admission.Records of one method."""

    def __init__(
        self, method: MethodPolicy, sink: AuditSink, workload: str, node: str, clock: Clock, subjects: Subjects
    ) -> None:
        self._required = method.audit is AuditLevel.REQUIRED
        self._path, self._subject_field = method.path, method.subject_field
        self._sink = sink
        self._workload, self._node = workload, node
        self._clock = clock
        self._subjects = subjects

    def begin(self, call: Call, request: Any) -> Attached:
        """Raises AuditUnavailable while records cannot be written, so that no work is begun."""
        self._sink.require_open()
        return begin(partial(self._record, call, request))

    def answered(self, attached: Attached) -> Awaitable[None] | None:
        return self._keep(attached, grpc.StatusCode.OK, attached.noted)

    def failed(self, attached: Attached, error: BaseException) -> Awaitable[None] | None:
        if isinstance(error, MeshError):
            return self._keep(attached, error.code, error.reason)
        if isinstance(error, asyncio.CancelledError):
            # The caller is gone or its time is up: there is nobody to hold an answer back from.
            self._sink.enqueue(attached.draw(grpc.StatusCode.CANCELLED, "CANCELLED"))
            return None
        if isinstance(error, Exception):
            return self._keep(attached, grpc.StatusCode.INTERNAL, type(error).__name__)
        return None

    def _keep(self, attached: Attached, code: grpc.StatusCode, reason: str) -> Awaitable[None] | None:
        if attached.says(code, reason):
            return None
        record = attached.draw(code, reason)
        if self._required:
            return self._sink.append(record)
        self._sink.enqueue(record)
        return None

    def _record(self, call: Call, request: Any, code: grpc.StatusCode, reason: str) -> AuditRecord:
        claims = call.claims
        about = clean(getattr(request, self._subject_field)) if self._subject_field else ""
        return AuditRecord(
            record_id=new_record_id(),
            time_us=self._clock.now_us(),
            peer="" if call.peer is None else call.peer.uri,
            token_subject=clean(claims.subject) if claims else "",
            token_client=clean(claims.client_id) if claims else "",
            method=self._path,
            data_subject=self._subjects.named(about),
            decision=Decision.DENIED if code in _DENIED else Decision.ALLOWED,
            result=code.name,
            reason=reason,
            trace_id=call.trace_id,
            workload=self._workload,
            node=self._node,
        )
