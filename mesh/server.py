"""Build a gRPC server that cannot be unsafe: without identity, allow-list or one of its services there is none."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection

from mesh import guard
from mesh.contract import Contract
from mesh.settings import ProcessSettings
from mesh.tls import Identity

# Whoever routes to a process or operates it may ask whether it is well.
_HEALTH_CALLERS: Final = frozenset({"control-public", "control-private", "edge-gateway", "core-gateway", "operator"})
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
    """Stands in for a server while a generated adder registers, to learn which services it brings."""

    def __init__(self) -> None:
        self.services: list[str] = []
        self.handlers: list[grpc.GenericRpcHandler] = []

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        self.handlers.extend(handlers)
        self.services.extend(handler.service_name() for handler in handlers)  # type: ignore[attr-defined]

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """The generic handlers hold the same methods; asyncio servers use those."""


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

    interceptors: after the mesh's own peer check, outermost first. audit: around everything, so that refused peers
    leave a record too.
    """

    def __init__(
        self,
        process: Context,
        *,
        interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
        audit: grpc.aio.ServerInterceptor | None = None,
    ) -> None:
        self._process = process
        self._interceptors = tuple(interceptors)
        self._audit = audit
        self._handlers: dict[str, grpc.GenericRpcHandler] = {}
        self._infrastructure: dict[str, frozenset[str]] = {}

    def add(self, adder: Callable[[Any, Any], None], servicer: object) -> "ServerBuilder":
        """Register a service of the contract with its generated `add_..._to_server`."""
        for name, handler in self._record(adder, servicer):
            if name not in self._process.contract.services:
                raise UnsafeServerError(f"service {name} has no policy in the contract: state one in its .proto")
            self._handlers[name] = handler
        return self

    def add_infrastructure(
        self, adder: Callable[[Any, Any], None], servicer: object, callers: frozenset[str]
    ) -> "ServerBuilder":
        """Register a service that others define (xDS, health), open to the named workloads of the same zone."""
        if not callers:
            raise UnsafeServerError("an infrastructure service needs callers: name the workloads that may use it")
        for name, handler in self._record(adder, servicer):
            self._handlers[name] = handler
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
            if service.zone != settings.zone:
                raise UnsafeServerError(
                    f"{service.name} belongs into the {service.zone} zone, this process is in {settings.zone}"
                )
            for method in service.methods:
                if not method.callers:
                    raise UnsafeServerError(
                        f"{method.full_name} names no callers: an empty list is an error, not everybody"
                    )
        business = sorted(self._handlers.keys() - self._infrastructure.keys())
        for name in business:
            if contract.services[name].workload != settings.workload:
                raise UnsafeServerError(
                    f"{name} belongs to {contract.services[name].workload}, not to {settings.workload}"
                )
        health = HealthServicer()
        # Whoever holds the process's own certificate, its launcher, may ask too.
        askers = _HEALTH_CALLERS | {settings.workload}
        self.add_infrastructure(health_pb2_grpc.add_HealthServicer_to_server, health, askers)
        names = (*sorted(self._handlers), reflection.SERVICE_NAME)
        self._infrastructure[reflection.SERVICE_NAME] = _REFLECTION_CALLERS
        chain: list[grpc.aio.ServerInterceptor] = [guard.Entry(contract, settings)]
        if self._audit is not None:
            chain.append(self._audit)
        chain.append(guard.Guard(contract, self._infrastructure, settings))
        server = grpc.aio.server(
            interceptors=(*chain, *self._interceptors),
            options=_OPTIONS,
            maximum_concurrent_rpcs=settings.concurrent_calls_max,
        )
        server.add_generic_rpc_handlers(tuple(self._handlers.values()))
        reflection.enable_server_reflection(names, server)
        server.add_secure_port(settings.grpc_address, self._process.identity.server_credentials())
        return MeshServer(server, health, business, settings.grpc_address)

    def _record(self, adder: Callable[[Any, Any], None], servicer: object) -> list[tuple[str, grpc.GenericRpcHandler]]:
        recorder = _Recorder()
        adder(servicer, recorder)
        for name in recorder.services:
            if name in self._handlers:
                raise UnsafeServerError(f"service {name} was added twice")
        return list(zip(recorder.services, recorder.handlers, strict=True))


def health_server(process: Context) -> MeshServer:
    """A server with nothing but health, for processes that serve no calls yet must be seen to live."""
    return ServerBuilder(process).build()
