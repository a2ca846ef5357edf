"""What Envoy is told: go on with this token, or say that; and what stands on record."""

import json
from typing import Any

import pytest
from envoy.service.auth.v3 import external_auth_pb2 as auth

from mesh.clock import SystemClock
from mesh.contract import load
from mesh.errors import MeshError, NotFound, PermissionDenied, Unauthenticated, Unavailable
from mesh.settings import ProcessSettings
from security.audit.record import AuditRecord, Decision
from security.gateway.decision import Asked, Decided
from security.gateway.minting import InnerToken
from security.gateway.service import AuthorizationService
from security.gateway.shield import Mode, Shield

PATH = "/isthmus.orders.v1.Orders/PlaceOrder"
CERTIFICATE = f"By=x;Hash={'ab' * 32};URI=spiffe://isthmus.internal/public/edge-gateway"


class Sink:
    def __init__(self, closed: bool = False) -> None:
        self.records: list[AuditRecord] = []
        self.closed = closed

    def require_open(self) -> None:
        """Not asked."""

    async def append(self, record: AuditRecord) -> None:
        """Not called."""

    def enqueue(self, record: AuditRecord) -> None:
        if self.closed:
            raise Unavailable("AUDIT_UNAVAILABLE", "full")
        self.records.append(record)


class Decides:
    """Decides as it is told, and keeps what it was asked."""

    def __init__(self, outcome: Exception | Decided) -> None:
        self.outcome = outcome
        self.asked: Asked | None = None

    async def decide(self, asked: Asked) -> Decided:
        self.asked = asked
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


SHIELD = Shield(load(), Mode.ENFORCE)
SETTINGS = ProcessSettings.model_construct(workload="gateway", node="gateway-1")


async def check(decides: Decides, sink: Sink, **headers: str) -> auth.CheckResponse:
    request = auth.CheckRequest()
    http = request.attributes.request.http
    http.method, http.path = "POST", PATH
    http.headers.update({"x-forwarded-client-cert": CERTIFICATE} | headers)
    service = AuthorizationService(decides, SHIELD, sink, SETTINGS, SystemClock())  # type: ignore[arg-type]
    context: Any = None
    return await service.Check(request, context)


async def test_a_call_goes_on_with_the_inner_token_and_without_what_it_came_with() -> None:
    sent = {"authorization": "Bearer outside", "x-envoy-original-path": "/v1/orders?a=b", "dpop": "p"}
    decides = Decides(Decided(InnerToken("inside", 0), None))
    answer = await check(decides, Sink(), **sent)
    assert answer.status.code == 0
    [header] = answer.ok_response.headers
    assert (header.header.key, header.header.value) == ("authorization", "Bearer inside")
    assert set(answer.ok_response.headers_to_remove) == {"dpop", "cookie"}
    assert decides.asked == Asked(
        path=PATH,
        authorization="Bearer outside",
        peer="spiffe://isthmus.internal/public/edge-gateway",
        thumbprint="q6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6s",
        proof="p",
        verb="POST",
        outside="/v1/orders",
    )


async def test_a_call_that_needs_no_token_goes_on_with_none() -> None:
    answer = await check(Decides(Decided(None, None)), Sink(), authorization="Bearer outside")
    assert "authorization" in answer.ok_response.headers_to_remove
    assert not answer.ok_response.headers


@pytest.mark.parametrize(
    ("error", "status", "reason", "challenge"),
    [
        (Unauthenticated("TOKEN_MISSING", "x"), 401, "TOKEN_MISSING", 'Bearer realm="isthmus", DPoP algs="ES256"'),
        (Unauthenticated("TOKEN_EXPIRED", "x"), 401, "TOKEN_EXPIRED", 'error="invalid_token"'),
        (Unauthenticated("TOKEN_ISSUER", "of another issuer"), 401, "TOKEN_INVALID", 'error="invalid_token"'),
        (Unauthenticated("TOKEN_KEY", "unknown key"), 401, "TOKEN_INVALID", 'error="invalid_token"'),
        (Unauthenticated("PROOF_REPLAYED", "x"), 401, "PROOF_REPLAYED", 'DPoP error="invalid_dpop_proof"'),
        (Unauthenticated("PROOF_NONCE", "x", metadata={"nonce": "n1"}), 401, "PROOF_NONCE", "use_dpop_nonce"),
        (
            Unauthenticated("STEP_UP_REQUIRED", "x", metadata={"acr_values": "two", "max_age": "300"}),
            401,
            "STEP_UP_REQUIRED",
            'Bearer error="insufficient_user_authentication", error_description="x", acr_values="two", max_age="300"',
        ),
        (PermissionDenied("SCOPE_MISSING", "x", metadata={"scope": "a b"}), 403, "SCOPE_MISSING", 'scope="a b"'),
        (PermissionDenied("MEMBER_REQUIRED", "x"), 403, "MEMBER_REQUIRED", ""),
        (Unavailable("KEYS_UNAVAILABLE", "x"), 503, "KEYS_UNAVAILABLE", ""),
        (ValueError("a bug"), 500, "INTERNAL", ""),
    ],
)
async def test_a_refusal_tells_the_rule_to_the_log_and_what_helps_to_the_caller(
    error: Exception, status: int, reason: str, challenge: str
) -> None:
    sink = Sink()
    answer = await check(Decides(error), sink)
    denied = answer.denied_response
    headers = {each.header.key: each.header.value for each in denied.headers}
    document = json.loads(denied.body)
    assert (denied.status.code, document["status"], document["reason"]) == (status, status, reason)
    assert headers["content-type"] == "application/problem+json"
    assert challenge in headers.get("www-authenticate", "")
    assert bool(challenge) == ("www-authenticate" in headers)
    assert headers.get("dpop-nonce") == ("n1" if reason == "PROOF_NONCE" else None)
    assert answer.dynamic_metadata["answered"] is True
    if isinstance(error, MeshError):
        [record] = sink.records
        assert (record.method, record.decision, record.reason) == (PATH, Decision.DENIED, error.reason)


async def test_what_is_no_method_is_refused_and_on_no_record() -> None:
    sink = Sink()
    answer = await check(Decides(NotFound("METHOD_UNKNOWN", "x")), sink)
    assert answer.denied_response.status.code == 404
    assert not sink.records


async def test_without_a_record_there_is_no_other_answer() -> None:
    answer = await check(Decides(Unauthenticated("TOKEN_EXPIRED", "x")), Sink(closed=True))
    assert answer.denied_response.status.code == 503
