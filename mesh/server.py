"""Build a gRPC server that cannot be unsafe: without identity, allow-list or one of its services there is none."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection_pb2_grpc
from grpc_reflection.v1alpha._async import ReflectionServicer

from mesh import csds
from mesh.admission import Admission, Audit, Rule, arrived
from mesh.contract import Contract, MethodPolicy
from mesh.contract.model import AuditLevel
from mesh.guard import Fields, Guard
from mesh.rates import Rates
from mesh.redaction import Redaction
from mesh.settings import ProcessSettings
from mesh.tls import Identity

# Whoever routes to a process or operates it may ask whether it is well.
_HEALTH_CALLERS: Final = frozenset({"control-public", "control-private", "edge-gateway", "core-gateway", "operator"})
_STATUS_CALLERS: Final = frozenset({"operator", "control-public", "control-private"})
_REFLECTION: Final = "grpc.reflection.v1alpha.ServerReflection"
_REFLECTION_CALLERS: Final = frozenset({"operator"})
_MESSAGE_BYTES_MAX: Final = 1 << 20
_OPTIONS: Final = (
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", _MESSAGE_BYTES_MAX),
    ("grpc.max_metadata_size", 16 << 10),
    # A connection that is renewed each hour picks up rotated certificates and new endpoints.
    ("grpc.max_connection_age_ms", 3_600_000),
    ("grpc.max_connection_age_grace_ms", 10_000),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
)


class UnsafeServerError(RuntimeError):
    """The server would have been open to somebody, or would lack a service. Says which rule and what to do."""


class Context(Protocol):
    """What a server needs of its process."""

    @property
    def settings(self) -> ProcessSettings: ...
    @property
    def identity(self) -> Identity: ...
    @property
    def contract(self) -> Contract: ...


class _Recorder:
    """Stands in for a server while a generated adder registers, to learn which services and methods it brings."""

    def __init__(self) -> None:
        # By service, then by the method's short name.
        self.services: dict[str, Mapping[str, Any]] = {}

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """They hold the same methods, and do not list them."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        self.services[service] = handlers


class _Methods(grpc.GenericRpcHandler):
    """Every method by its path, behind its admission: gRPC would ask interceptors of its own for each call anew."""

    def __init__(self, handlers: Mapping[str, Any]) -> None:
        self._handlers = handlers

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        arrived.set(handler_call_details.invocation_metadata or ())
        return self._handlers.get(handler_call_details.method)


class MeshServer:
    """A running or runnable gRPC server with health, reflection and a bounded drain."""

    def __init__(self, server: grpc.aio.Server, health: HealthServicer, services: Sequence[str], address: str) -> None:
        self._server = server
        self._health = health
        self._services = services
        self.address = address

    async def start(self) -> None:
        await self._server.start()

    async def mark(self, serving: bool) -> None:
        """Tell the control plane whether calls may come here."""
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", *self._services):
            await self._health.set(name, status)

    async def stop(self, grace_s: float) -> None:
        await self._server.stop(grace_s)


class ServerBuilder:
    """Collects services, then checks them against the contract.

    tokens: asked behind the mesh's own peer check, of methods that need one. audit: around everything, so that refused
    peers leave a record too. Either may be left out where no policy of the workload asks for it.
    """

    def __init__(
        self,
        process: Context,
        *,
        tokens: Rule | None = None,
        audit: Audit | None = None,
    ) -> None:
        self._process = process
        self._tokens = tokens
        self._audit = audit
        self._handlers: dict[str, Mapping[str, Any]] = {}
        self._infrastructure: dict[str, frozenset[str]] = {}

    def add(self, adder: Callable[[Any, Any], None], servicer: object) -> "ServerBuilder":
        """Register a service of the contract with its generated `add_..._to_server`."""
        for name, handlers in self._record(adder, servicer).items():
            if name not in self._process.contract.services:
                raise UnsafeServerError(f"service {name} has no policy in the contract: state one in its .proto")
            self._handlers[name] = handlers
        return self

    def add_infrastructure(
        self, adder: Callable[[Any, Any], None], servicer: object, callers: frozenset[str]
    ) -> "ServerBuilder":
        """Register a service that others define (xDS, health), open to the named workloads of the same zone."""
        if not callers:
            raise UnsafeServerError("an infrastructure service needs callers: name the workloads that may use it")
        for name, handlers in self._record(adder, servicer).items():
            self._handlers[name] = handlers
            self._infrastructure[name] = callers
        return self

    def build(self) -> MeshServer:
        """The server, not yet started. Raises UnsafeServerError when it would be unsafe or incomplete."""
        settings, contract = self._process.settings, self._process.contract
        if settings.grpc_address is None:
            raise UnsafeServerError("no address to serve on: set ISTHMUS_GRPC_ADDRESS")
        if self._process.identity.spiffe_id != settings.spiffe_id:
            raise UnsafeServerError(
                f"the certificate is {self._process.identity.spiffe_id}, the settings say {settings.spiffe_id}"
            )
        for service in contract.of_workload(settings.workload):
            if service.name not in self._handlers:
                raise UnsafeServerError(f"{settings.workload} must serve {service.name} and nobody added it")
            if (settings.zone, settings.workload) not in service.places:
                raise UnsafeServerError(f"{service.name} does not belong into the {settings.zone} zone of this process")
            for method in service.methods:
                if not method.callers:
                    raise UnsafeServerError(
                        f"{method.full_name} names no callers: an empty list is an error, not everybody"
                    )
                self._require_enforced(method)
        business = sorted(self._handlers.keys() - self._infrastructure.keys())
        for name in business:
            if contract.services[name] not in contract.of_workload(settings.workload):
                raise UnsafeServerError(
                    f"{name} belongs to {contract.services[name].workload}, not to {settings.workload}"
                )
        health = HealthServicer()
        # Whoever holds the process's own certificate, its launcher, may ask too.
        askers = _HEALTH_CALLERS | {settings.workload}
        self.add_infrastructure(health_pb2_grpc.add_HealthServicer_to_server, health, askers)
        reflection = ReflectionServicer((*sorted(self._handlers), _REFLECTION))
        self.add_infrastructure(
            reflection_pb2_grpc.add_ServerReflectionServicer_to_server, reflection, _REFLECTION_CALLERS
        )
        if "GRPC_XDS_BOOTSTRAP" in os.environ:
            self.add_infrastructure(csds.add, None, _STATUS_CALLERS | {settings.workload})
        methods = _Methods(self._admitted())
        server = grpc.aio.server(
            handlers=(methods,), options=_OPTIONS, maximum_concurrent_rpcs=settings.concurrent_calls_max
        )
        server.add_secure_port(settings.grpc_address, self._process.identity.server_credentials())
        return MeshServer(server, health, business, settings.grpc_address)

    def _require_enforced(self, method: MethodPolicy) -> None:
        """What the mesh does not enforce by itself has somebody who does: a policy is not declared and then ignored."""
        if method.needs_token and (self._tokens is None or self._tokens.check(method) is None):
            asked = ", ".join(name for name in ("scopes", "human", "step_up") if getattr(method, name))
            raise UnsafeServerError(
                f"{method.full_name} asks for a token ({asked}) and nobody checks it: build the server with tokens=..."
            )
        if method.audit is not AuditLevel.NONE and (self._audit is None or self._audit.records(method) is None):
            raise UnsafeServerError(
                f"{method.full_name} asks for records (audit {method.audit.name}) and nobody keeps them: "
                "build the server with audit=..."
            )

    def _admitted(self) -> dict[str, Any]:
        settings, contract = self._process.settings, self._process.contract
        guard = Guard(self._infrastructure, settings)
        # Field rules come last: who holds no token learns none of them. Rates before them: members draw from their own.
        tokens = () if self._tokens is None else (self._tokens,)
        rules = (guard, *tokens, Rates(contract), Fields())
        admission = Admission(rules, self._audit, settings.trace_ratio, Redaction(contract))
        admitted = {}
        for service, handlers in self._handlers.items():
            for name, handler in handlers.items():
                path = f"/{service}/{name}"
                method = contract.methods.get(path)
                if method is not None and handler.unary_unary is not None:
                    admitted[path] = grpc.unary_unary_rpc_method_handler(
                        admission.before(method, handler.unary_unary),
                        request_deserializer=handler.request_deserializer,
                        response_serializer=handler.response_serializer,
                    )
                else:
                    admitted[path] = guard.infrastructure(path, handler)
        return admitted

    def _record(self, adder: Callable[[Any, Any], None], servicer: object) -> dict[str, Mapping[str, Any]]:
        recorder = _Recorder()
        adder(servicer, recorder)
        for name in recorder.services:
            if name in self._handlers:
                raise UnsafeServerError(f"service {name} was added twice")
        return recorder.services


def health_server(process: Context) -> MeshServer:
    """A server with nothing but health, for processes that serve no calls yet must be seen to live."""
    return ServerBuilder(process).build()
