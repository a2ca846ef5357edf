"""Leaves an audit record of every call, allowed or denied, at the level that the method's policy asks for.

Stands outside of the peer check and the token check, so that whom they refuse is on record too, and inside of the
translation of errors, so that no answer leaves before its record.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any, Final

import grpc

from mesh.call import current_call
from mesh.clock import Clock, SystemClock
from mesh.contract import Contract, MethodPolicy
from mesh.contract.model import AuditLevel
from mesh.errors import MeshError
from mesh.settings import ProcessSettings
from security.audit.attached import begin
from security.audit.port import AuditSink
from security.audit.record import AuditRecord, Decision, clean
from security.audit.subjects import Subjects

_DENIED: Final = frozenset({grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED})

Behaviour = Callable[[Any, grpc.aio.ServicerContext[Any, Any]], Awaitable[Any]]


class AuditInterceptor(grpc.aio.ServerInterceptor):
    """For `ServerBuilder(process, audit=...)` of every private service."""

    def __init__(
        self, contract: Contract, sink: AuditSink, settings: ProcessSettings, clock: Clock | None = None
    ) -> None:
        self._methods = contract.methods
        self._sink = sink
        self._workload, self._node = settings.workload, settings.node
        self._clock = clock or SystemClock()
        self._subjects = Subjects.below(settings.home)
        self._wrapped: dict[str, Any] = {}

    async def intercept_service(self, continuation: Any, details: grpc.HandlerCallDetails) -> Any:
        handler = await continuation(details)
        method = self._methods.get(details.method)
        # What is not in the contract is health or reflection, which say nothing about anybody.
        if handler is None or method is None or method.audit is AuditLevel.NONE:
            return handler
        wrapped = self._wrapped.get(details.method)
        if wrapped is None:
            wrapped = self._wrapped[details.method] = grpc.unary_unary_rpc_method_handler(
                self._audited(method, handler.unary_unary), handler.request_deserializer, handler.response_serializer
            )
        return wrapped

    def _audited(self, method: MethodPolicy, handle: Behaviour) -> Behaviour:
        required = method.audit is AuditLevel.REQUIRED

        async def audited(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            self._sink.require_open()
            attached = begin(lambda code, reason: self._record(method, request, code, reason))
            try:
                answer = await handle(request, context)
            except MeshError as error:
                if not attached.says(error.code, error.reason):
                    await self._keep(self._record(method, request, error.code, error.reason), required)
                raise
            except asyncio.CancelledError:
                # The caller is gone or its time is up: there is nobody to hold an answer back from.
                self._sink.enqueue(self._record(method, request, grpc.StatusCode.CANCELLED, "CANCELLED"))
                raise
            except Exception as error:
                await self._keep(
                    self._record(method, request, grpc.StatusCode.INTERNAL, type(error).__name__), required
                )
                raise
            if not attached.says(grpc.StatusCode.OK, attached.noted):
                await self._keep(self._record(method, request, grpc.StatusCode.OK, attached.noted), required)
            return answer

        return audited

    async def _keep(self, record: AuditRecord, required: bool) -> None:
        if required:
            await self._sink.append(record)
        else:
            self._sink.enqueue(record)

    def _record(self, method: MethodPolicy, request: Any, code: grpc.StatusCode, reason: str) -> AuditRecord:
        call = current_call()
        claims = call.claims
        about = clean(getattr(request, method.subject_field)) if method.subject_field else ""
        return AuditRecord(
            record_id=os.urandom(16).hex(),
            time_us=self._clock.now_us(),
            peer=str(call.peer or ""),
            token_subject=clean(claims.subject) if claims else "",
            token_client=clean(claims.client_id) if claims else "",
            method=method.path,
            data_subject=self._subjects.named(about),
            decision=Decision.DENIED if code in _DENIED else Decision.ALLOWED,
            result=code.name,
            reason=reason,
            trace_id=call.trace_id,
            workload=self._workload,
            node=self._node,
        )
