"""Envoy's ext_authz over gRPC, and token exchange for services."""

from typing import Any

import grpc
from envoy.service.auth.v3 import attribute_context_pb2, external_auth_pb2_grpc
from envoy.service.auth.v3 import external_auth_pb2 as auth
from isthmus.gateway.v1 import gateway_pb2, gateway_pb2_grpc

from mesh import telemetry
from mesh.call import Claims, current_call
from mesh.clock import Clock
from mesh.errors import Internal, MeshError, NotFound
from mesh.forwarded import forwarded_peer
from mesh.logs import logger
from mesh.settings import ProcessSettings
from security.audit.port import AuditSink
from security.audit.record import AuditRecord, Decision, clean, new_record_id
from security.gateway import answers
from security.gateway.decision import Asked, Decider, Exchanger
from security.gateway.shield import Shield

log = logger("gateway")


class AuthorizationService(external_auth_pb2_grpc.AuthorizationServicer):  # type: ignore[misc]
    """envoy.service.auth.v3.Authorization, asked by the core gateway about every call that needs a token.

    A call that is let through goes on record where it is served, one that is refused goes on record here.
    """

    def __init__(
        self, decider: Decider, shield: Shield, sink: AuditSink, settings: ProcessSettings, clock: Clock
    ) -> None:
        self._decider = decider
        self._shield = shield
        self._sink = sink
        self._workload, self._node = settings.workload, settings.node
        self._clock = clock
        self._decided = telemetry.meter().create_counter("gateway.decisions")

    async def Check(
        self, request: auth.CheckRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> auth.CheckResponse:
        http = request.attributes.request.http
        headers = http.headers
        asked = _asked(http)
        try:
            decided = await self._decider.decide(asked)
            # Last: who may not call at all learns nothing of what is taken.
            self._shield.check(asked.path, http.raw_body)
        except MeshError as error:
            return self._refuse(asked, headers.get("traceparent", ""), error)
        except Exception:
            log.exception("decision failed", method=asked.path)
            return answers.refused(Internal("INTERNAL", "the gateway failed on this call"))
        self._decided.add(1, {"result": "ALLOWED"})
        return answers.allowed(decided.token.text if decided.token else None)

    def _refuse(self, asked: Asked, traceparent: str, error: MeshError) -> auth.CheckResponse:
        self._decided.add(1, {"result": error.reason})
        log.info("call refused", method=asked.path, peer=asked.peer, reason=error.reason)
        if not isinstance(error, NotFound):
            claims = getattr(error, "claims", None)
            try:
                self._sink.enqueue(self._record(asked, traceparent, error, claims))
            except MeshError as unrecorded:
                # No record, no answer that says more than that.
                return answers.refused(unrecorded)
        return answers.refused(error)

    def _record(self, asked: Asked, traceparent: str, error: MeshError, claims: Claims | None) -> AuditRecord:
        return AuditRecord(
            record_id=new_record_id(),
            time_us=self._clock.now_us(),
            peer=clean(asked.peer),
            token_subject=clean(claims.subject) if claims else "",
            token_client=clean(claims.client_id) if claims else "",
            method=clean(asked.path),
            data_subject="",
            decision=Decision.DENIED,
            result=error.code.name,
            reason=error.reason,
            trace_id=telemetry.valid_traceparent(traceparent)[3:35],
            workload=self._workload,
            node=self._node,
        )


def _asked(http: attribute_context_pb2.AttributeContext.HttpRequest) -> Asked:
    headers = http.headers
    peer, thumbprint = forwarded_peer(headers.get("x-forwarded-client-cert", ""))
    # A transcoded call stands here as the gRPC call that it became.
    outside = headers.get("x-envoy-original-path", http.path).partition("?")[0]
    return Asked(
        path=http.path.partition("?")[0],
        authorization=headers.get("authorization", ""),
        peer=peer,
        thumbprint=thumbprint,
        proof=headers.get("dpop", ""),
        verb=headers.get("x-envoy-original-method", http.method),
        outside=outside,
    )


class ExchangeService(gateway_pb2_grpc.ExchangeServicer):
    """isthmus.gateway.v1.Exchange"""

    def __init__(self, exchanger: Exchanger) -> None:
        self._exchanger = exchanger

    async def ExchangeToken(
        self, request: gateway_pb2.ExchangeTokenRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> gateway_pb2.ExchangeTokenResponse:
        peer = current_call().peer
        assert peer is not None
        made = await self._exchanger.exchange(peer, request.subject_token, request.method)
        return gateway_pb2.ExchangeTokenResponse(token=made.text, expires=made.expires)
