"""A server built by the mesh cannot be unsafe, and what it refuses says why."""

import asyncio
import dataclasses
import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from unittest.mock import Mock

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from isthmus.money.v1 import money_pb2
from isthmus.orders.v1 import orders_pb2_grpc
from isthmus.payments.v1 import sandbox_pb2, sandbox_pb2_grpc

from mesh import admission
from mesh.admission import Rule
from mesh.call import Call, begin, current_call
from mesh.contract import MethodPolicy
from mesh.contract.model import AuditLevel
from mesh.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    PermissionDenied,
    Unavailable,
)
from mesh.server import MeshServer, ServerBuilder, UnsafeServerError
from mesh.spiffe import SpiffeId
from tests.stand_in import AnyToken, Forgetful
from tests.unit.mesh.conftest import Member, Zone

PROVIDER = SpiffeId("private", "sandbox-provider")
HOLD = sandbox_pb2.HoldRequest(
    idempotency_key="key-0001", reference="p-1", amount=money_pb2.Money(minor=1, currency="EUR")
)


class Provider(sandbox_pb2_grpc.SandboxProviderServicer):
    """Answers, fails or waits, as the test wants."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.delay_s = 0.0
        self.seen: list[Any] = []

    async def Hold(self, request: Any, context: Any) -> sandbox_pb2.HoldResponse:
        call = current_call()
        self.seen.append((call.peer, call.traceparent, call.remaining_s()))
        await asyncio.sleep(self.delay_s)
        if self.error is not None:
            raise self.error
        return sandbox_pb2.HoldResponse(approved=True)

    async def Take(self, request: Any, context: Any) -> sandbox_pb2.TakeResponse:
        return sandbox_pb2.TakeResponse()

    async def Return(self, request: Any, context: Any) -> sandbox_pb2.ReturnResponse:
        return sandbox_pb2.ReturnResponse()

    async def Release(self, request: Any, context: Any) -> sandbox_pb2.ReleaseResponse:
        return sandbox_pb2.ReleaseResponse()

    async def ListStatement(self, request: Any, context: Any) -> sandbox_pb2.ListStatementResponse:
        return sandbox_pb2.ListStatementResponse()


@asynccontextmanager
async def serving(member: Member, provider: Provider, tokens: Rule | None = None) -> AsyncIterator[MeshServer]:
    builder = ServerBuilder(member, tokens=tokens)
    server = builder.add(sandbox_pb2_grpc.add_SandboxProviderServicer_to_server, provider).build()
    await server.start()
    await server.mark(serving=True)
    try:
        yield server
    finally:
        await server.stop(0.1)


def stub(caller: Member, server: MeshServer) -> Any:
    return sandbox_pb2_grpc.SandboxProviderStub(caller.channels.direct(server.address, PROVIDER))


async def test_a_listed_caller_is_served_and_known_by_its_spiffe_id(private: Zone) -> None:
    provider = Provider()
    async with serving(private.join("sandbox-provider"), provider) as server:
        answer = await stub(private.join("payments"), server).Hold(HOLD)
    assert answer.approved
    assert provider.seen[0][0] == SpiffeId("private", "payments")


async def test_a_caller_that_the_policy_does_not_name_is_refused_with_the_rule(private: Zone) -> None:
    async with serving(private.join("sandbox-provider"), Provider()) as server:
        with pytest.raises(PermissionDenied) as refused:
            await stub(private.join("orders"), server).Hold(HOLD)
    assert refused.value.reason == "CALLER_NOT_ALLOWED"
    assert "callers" in refused.value.remedy


async def test_a_workload_of_the_same_name_in_another_zone_cannot_even_connect(private: Zone) -> None:
    public = Zone(private.home, "public")
    async with serving(private.join("sandbox-provider"), Provider()) as server:
        with pytest.raises(Unavailable):
            await stub(public.join("payments"), server).Hold(HOLD)


async def test_a_client_refuses_a_server_with_another_name(private: Zone) -> None:
    async with serving(private.join("sandbox-provider"), Provider()) as server:
        channel = private.join("payments").channels.direct(server.address, SpiffeId("private", "orders"))
        with pytest.raises(Unavailable):
            await sandbox_pb2_grpc.SandboxProviderStub(channel).Hold(HOLD)


async def test_a_request_that_breaks_a_field_rule_never_reaches_the_handler(private: Zone) -> None:
    provider = Provider()
    async with serving(private.join("sandbox-provider"), provider) as server:
        with pytest.raises(InvalidArgument) as refused:
            await stub(private.join("payments"), server).Hold(sandbox_pb2.HoldRequest(idempotency_key="short"))
    assert {violation.field for violation in refused.value.fields} >= {"idempotency_key", "amount"}
    assert not provider.seen


async def test_a_typed_error_arrives_as_the_same_type_with_reason_and_remedy(private: Zone) -> None:
    provider = Provider()
    provider.error = FailedPrecondition("WRONG_STATE", "not now", remedy="capture first", metadata={"state": "placed"})
    async with serving(private.join("sandbox-provider"), provider) as server:
        with pytest.raises(FailedPrecondition) as failed:
            await stub(private.join("payments"), server).Hold(HOLD)
    assert (failed.value.reason, failed.value.message, failed.value.remedy) == (
        "WRONG_STATE",
        "not now",
        "capture first",
    )
    assert failed.value.metadata == {"state": "placed"}


async def test_an_unforeseen_failure_says_nothing_of_the_inside(private: Zone) -> None:
    provider = Provider()
    provider.error = KeyError("table members_secret")
    async with serving(private.join("sandbox-provider"), provider) as server:
        with pytest.raises(Internal) as failed:
            await stub(private.join("payments"), server).Hold(HOLD)
    assert "members_secret" not in str(failed.value.to_status())
    assert failed.value.metadata["trace_id"]


async def test_the_deadline_is_the_shorter_of_contract_and_caller(private: Zone) -> None:
    provider = Provider()
    async with serving(private.join("sandbox-provider"), provider) as server:
        caller = stub(private.join("payments"), server)
        await caller.Hold(HOLD, timeout=60)
        await caller.Hold(HOLD, timeout=1)
        provider.delay_s = 5
        with pytest.raises(DeadlineExceeded):
            await caller.Hold(HOLD, timeout=0.2)
    assert provider.seen[0][2] <= 3.0
    assert provider.seen[1][2] <= 1.05


async def test_health_answers_the_control_plane_and_no_stranger(private: Zone) -> None:
    async with serving(private.join("sandbox-provider"), Provider()) as server:

        async def ask(workload: str) -> Any:
            channel = private.join(workload).channels.direct(server.address, PROVIDER)
            return await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)

        assert (await ask("control-private")).status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await ask("payments")
        assert refused.value.code() == grpc.StatusCode.PERMISSION_DENIED


async def test_reflection_is_for_the_operator(private: Zone) -> None:
    async with serving(private.join("sandbox-provider"), Provider()) as server:

        async def reflect(workload: str) -> list[str]:
            channel = private.join(workload).channels.direct(server.address, PROVIDER)
            request = reflection_pb2.ServerReflectionRequest(list_services="")
            stream = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([request]), timeout=5)
            return [service.name async for answer in stream for service in answer.list_services_response.service]

        assert "isthmus.payments.v1.SandboxProvider" in await reflect("operator")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await reflect("payments")
        assert refused.value.code() == grpc.StatusCode.PERMISSION_DENIED


async def test_a_service_of_the_contract_that_nobody_added_stops_the_build(private: Zone) -> None:
    with pytest.raises(UnsafeServerError, match=r"isthmus\.payments\.v1\.SandboxProvider"):
        ServerBuilder(private.join("sandbox-provider")).build()


async def test_a_service_of_another_workload_stops_the_build(private: Zone) -> None:
    builder = ServerBuilder(private.join("sandbox-provider"))
    builder.add(sandbox_pb2_grpc.add_SandboxProviderServicer_to_server, Provider())
    builder.add(orders_pb2_grpc.add_OrdersServicer_to_server, Mock())
    with pytest.raises(UnsafeServerError, match="belongs to orders"):
        builder.build()


async def test_a_certificate_of_another_workload_stops_the_build(private: Zone) -> None:
    member = private.join("sandbox-provider")
    wrong = private.join("payments")
    builder = ServerBuilder(Member(member.settings, wrong.identity, member.contract))
    builder.add(sandbox_pb2_grpc.add_SandboxProviderServicer_to_server, Provider())
    with pytest.raises(UnsafeServerError, match="certificate"):
        builder.build()


def stating(member: Member, **policy: object) -> Member:
    """The member, with a contract whose policy for Hold says this too."""
    name = "isthmus.payments.v1.SandboxProvider"
    service = member.contract.services[name]
    methods = tuple(
        dataclasses.replace(method, **policy) if method.full_name.endswith(".Hold") else method  # type: ignore[arg-type]
        for method in service.methods
    )
    services = {**member.contract.services, name: dataclasses.replace(service, methods=methods)}
    by_path = {**member.contract.methods, **{method.path: method for method in methods}}
    contract = dataclasses.replace(member.contract, services=services, methods=by_path)
    return dataclasses.replace(member, contract=contract)


class Asks(AnyToken):
    """Checks tokens, or says of every method that it asks nothing."""

    def __init__(self, *, nothing: bool) -> None:
        self._nothing = nothing

    def check(self, method: MethodPolicy) -> Any:
        return None if self._nothing else super().check(method)


@pytest.mark.parametrize("policy", [{"scopes": frozenset({"payments.write"})}, {"human": True}, {"step_up": True}])
async def test_a_policy_that_asks_for_a_token_needs_somebody_who_checks_it(
    private: Zone, policy: dict[str, object]
) -> None:
    member = stating(private.join("sandbox-provider"), **policy)

    def build(tokens: AnyToken | None) -> MeshServer:
        builder = ServerBuilder(member, tokens=tokens)
        return builder.add(sandbox_pb2_grpc.add_SandboxProviderServicer_to_server, Provider()).build()

    (asked,) = policy
    for ignored in (None, Asks(nothing=True)):
        with pytest.raises(UnsafeServerError, match=rf"SandboxProvider\.Hold asks for a token \({asked}\).*tokens="):
            build(ignored)
    assert build(Asks(nothing=False)).address == member.settings.grpc_address


class Keeps(Forgetful):
    """Keeps records, or says of every method that none is kept."""

    def __init__(self, *, nothing: bool) -> None:
        self._nothing = nothing

    def records(self, method: MethodPolicy) -> Any:
        return None if self._nothing else super().records(method)


@pytest.mark.parametrize("level", [AuditLevel.RECORD, AuditLevel.REQUIRED])
async def test_a_policy_that_asks_for_records_needs_somebody_who_keeps_them(private: Zone, level: AuditLevel) -> None:
    member = stating(private.join("sandbox-provider"), audit=level)

    def build(audit: Forgetful | None) -> MeshServer:
        builder = ServerBuilder(member, audit=audit)
        return builder.add(sandbox_pb2_grpc.add_SandboxProviderServicer_to_server, Provider()).build()

    for ignored in (None, Keeps(nothing=True)):
        with pytest.raises(UnsafeServerError, match=rf"SandboxProvider\.Hold .* \(audit {level.name}\).*audit="):
            build(ignored)
    assert build(Keeps(nothing=False)).address == member.settings.grpc_address


async def test_infrastructure_open_to_everybody_stops_the_build(private: Zone) -> None:
    with pytest.raises(UnsafeServerError, match="callers"):
        ServerBuilder(private.join("sandbox-provider")).add_infrastructure(
            health_pb2_grpc.add_HealthServicer_to_server, Mock(), frozenset()
        )


async def test_tls_1_2_is_refused(private: Zone) -> None:
    member = private.join("sandbox-provider")
    caller = private.join("payments")
    context = caller.identity.ssl_context(server=False)
    context.check_hostname = False
    context.set_alpn_protocols(["h2"])

    def handshake(version: ssl.TLSVersion) -> str | None:
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.maximum_version = version
        host, port = member.settings.grpc_address.split(":")  # type: ignore[union-attr]
        with socket.create_connection((host, int(port)), timeout=5) as raw, context.wrap_socket(raw) as tls:
            return tls.version()

    async with serving(member, Provider()):
        assert await asyncio.to_thread(handshake, ssl.TLSVersion.TLSv1_3) == "TLSv1.3"
        with pytest.raises(OSError):
            await asyncio.to_thread(handshake, ssl.TLSVersion.TLSv1_2)


async def test_a_leaf_rotated_under_load_fails_no_call(private: Zone) -> None:
    member, caller = private.join("sandbox-provider"), private.join("payments")
    provider = Provider()
    async with serving(member, provider) as server:
        for _ in range(5):
            private.issue("sandbox-provider", timedelta(hours=2))
            private.issue("payments", timedelta(hours=2))
            # A channel opened anew, so that the rotated certificates are the ones that shake hands.
            fresh = stub(caller, server)
            answers = await asyncio.gather(*(fresh.Hold(HOLD) for _ in range(20)))
            assert all(answer.approved for answer in answers)
    assert member.identity.leaf.directory == member.settings.identity_dir.resolve()


async def test_the_trace_of_the_caller_is_the_trace_of_the_callee(private: Zone) -> None:
    provider = Provider()
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
    method = private.join("orders").contract.methods["/isthmus.payments.v1.SandboxProvider/Hold"]
    async with serving(private.join("sandbox-provider"), provider) as server:
        begin(Call(method, None, time.monotonic() + 2, traceparent=trace))
        await stub(private.join("payments"), server).Hold(HOLD)
    assert provider.seen[0][1] == trace
    assert provider.seen[0][2] < 2, "the callee has less time than its caller"


@pytest.mark.parametrize(
    ("header", "caller"),
    [
        (
            "By=spiffe://isthmus.internal/private/core-gateway;Hash=ab;URI=spiffe://isthmus.internal/private/operator",
            "operator",
        ),
        ("Hash=ab;URI=spiffe://isthmus.internal/public/edge-gateway", "core-gateway"),
        ("URI=spiffe://elsewhere.example/private/operator", "core-gateway"),
        ("URI=spiffe://isthmus.internal/private/operator;URI=spiffe://isthmus.internal/private/orders", "core-gateway"),
        ("URI=operator", "core-gateway"),
        ("", "core-gateway"),
    ],
)
def test_the_core_gateway_says_who_came_through_it(header: str, caller: str) -> None:
    gateway = SpiffeId("private", "core-gateway")
    found = admission.caller(gateway, header)
    assert found == SpiffeId("private", caller)


def test_nobody_else_speaks_for_another() -> None:
    payments = SpiffeId("private", "payments")
    assert admission.caller(payments, "URI=spiffe://isthmus.internal/private/operator") == payments
    assert admission.caller(None, "URI=spiffe://isthmus.internal/private/operator") is None
