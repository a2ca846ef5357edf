"""Where the scenarios of the xDS protocol are played: the control plane's own cache and streams, and two real clients.

Everything speaks plaintext on the loopback, so that nothing but the protocol is in play.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import grpc
from envoy.service.discovery.v3 import ads_pb2_grpc

from deploy.local import envoy
from deploy.local.xds_bootstrap import FEATURES
from mesh.control.cache import SnapshotCache
from mesh.control.compile import packed
from mesh.control.conversation import Ack, Nack
from mesh.control.health import State
from mesh.control.registry import Endpoint
from mesh.control.resources.endpoints import assignment
from mesh.control.snapshot import CLUSTER, ENDPOINTS, LISTENER, ROUTES, Snapshot, pack
from mesh.control.stream import converse
from tests.integration.control.bootstrap import bootstrapped
from tests.integration.control.world import eventually
from tests.ports import free_port

GROUP: Final = "all"
ENVOY: Final = "envoy"
GRPC: Final = "grpc"
_ADS: Final = {"ads": {}, "resource_api_version": "V3"}
_METHOD: Final = "/scenario.Scenario/Ask"
_CALL_S: Final = 10.0


class ControlPlane(ads_pb2_grpc.AggregatedDiscoveryServiceServicer):  # type: ignore[misc]
    """Offers what it is told to, on a port that stays its own when it goes and comes back."""

    def __init__(self) -> None:
        self.cache = SnapshotCache()
        self.port = free_port()
        # What each open stream asks for, by type; None: everything.
        self._asked: dict[object, dict[str, frozenset[str]]] = {}
        # Names of clusters whose endpoints any stream has ever asked for.
        self.in_use: set[str] = set()
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        self._server = grpc.aio.server()
        ads_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server(self, self._server)
        self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self._server.start()

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(0)

    def asked(self, kind: str) -> set[str]:
        """The names of a type that open streams ask for."""
        return {name for stream in self._asked.values() for name in stream.get(kind, ())}

    async def StreamAggregatedResources(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        changed = asyncio.Event()
        stream = _Stream(self.cache, self.in_use)
        self._asked[stream] = stream.asked
        self.cache.subscribe(GROUP, changed)
        try:
            async for response in converse(requests, lambda: self.cache.get(GROUP), changed, stream, name="scenario"):
                yield response
        finally:
            self.cache.unsubscribe(GROUP, changed)
            del self._asked[stream]


class _Stream:
    """Notes what one data plane asks for, acknowledges and refuses."""

    def __init__(self, cache: SnapshotCache, in_use: set[str]) -> None:
        self._cache = cache
        self._in_use = in_use
        self.asked: dict[str, frozenset[str]] = {}

    def received(self, request: Any, event: Ack | Nack | None) -> None:
        self.asked[request.type_url] = frozenset(request.resource_names)
        self._in_use |= self.asked.get(ENDPOINTS, frozenset())
        if isinstance(event, Ack):
            self._cache.acknowledge(GROUP, event.kind, event.version)
        elif event is not None:
            self._cache.reject(GROUP, "scenario", event.kind, event.version, event.reason)

    def sent(self, kind: str, version: str) -> None:
        """The data plane says itself what it works with."""


class Backends:
    """Servers that answer with their names."""

    def __init__(self) -> None:
        self.ports: dict[str, int] = {}
        self._servers: list[grpc.aio.Server] = []

    async def start(self, *names: str) -> None:
        for name in names:
            server = grpc.aio.server(handlers=(_Answers(name),))
            self.ports[name] = server.add_insecure_port("127.0.0.1:0")
            await server.start()
            self._servers.append(server)

    async def stop(self) -> None:
        await asyncio.gather(*(server.stop(0) for server in self._servers))


class _Answers(grpc.GenericRpcHandler):
    def __init__(self, name: str) -> None:
        self._name = name.encode()

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        return grpc.unary_unary_rpc_method_handler(self._answer)

    async def _answer(self, request: bytes, context: Any) -> bytes:
        return self._name


class Client:
    """One of the two real clients. Whom it follows is a name of a listener."""

    def __init__(self, kind: str, control: ControlPlane, backends: Backends, directory: Path) -> None:
        self.kind = kind
        self.listens: dict[str, int] = {}
        self._control = control
        self._backends = backends
        self._directory = directory
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._process: asyncio.subprocess.Process | None = None

    def offer(self, targets: Mapping[str, str], broken: str = "") -> Snapshot:
        """By listener, the cluster that it leads to, or several with a + between. Each has the backend of its own name.

        broken: a cluster that says its endpoints come by discovery, and not from where.
        """
        names = sorted({name for clusters in targets.values() for name in clusters.split("+")})
        source: dict[str, dict[str, dict[str, Any]]] = {
            LISTENER: {name: self._listener(name) for name in targets},
            ROUTES: {name: _routes(name, cluster) for name, cluster in targets.items()},
            CLUSTER: {name: _cluster(name, broken=name == broken) for name in names},
        }
        # Of all, as the group may have to go back to what has others.
        ports = self._backends.ports
        assigned = {name: assignment(name, [self._endpoint(name)], lambda _: State.HEALTHY) for name in ports}
        snapshot = Snapshot.of({**packed(source), ENDPOINTS: pack(assigned)})
        self._control.cache.set(GROUP, snapshot)
        return snapshot

    async def follow(self, name: str) -> None:
        """Begin to call a listener."""
        if self.kind == ENVOY:
            await self._start_envoy()
        target = f"127.0.0.1:{self.listens[name]}" if self.kind == ENVOY else f"xds:///{name}"
        self._channels[name] = grpc.aio.insecure_channel(target)

    async def leave(self, name: str) -> None:
        """Call it no more."""
        await self._channels.pop(name).close()

    async def ask(self, name: str) -> str:
        """The backend that answers a call, or the status with which it failed."""
        ask: Any = self._channels[name].unary_unary(_METHOD)
        try:
            return str((await ask(b"", timeout=_CALL_S)).decode())
        except grpc.aio.AioRpcError as error:
            return error.code().name

    async def reaches(self, name: str, backend: str) -> None:
        """Wait until calls are answered by this backend."""

        async def answered() -> bool:
            return await self.ask(name) == backend

        await eventually(answered, f"{name} leads {self.kind} to {backend}")

    async def stop(self) -> None:
        for name in list(self._channels):
            await self.leave(name)
        if self._process is not None:
            self._process.kill()
            await self._process.wait()

    def _endpoint(self, name: str) -> Endpoint:
        return Endpoint(name, "grpc", name, "private", "127.0.0.1", self._backends.ports[name])

    def _listener(self, name: str) -> dict[str, Any]:
        manager = {
            "@type": envoy.TYPE_MANAGER,
            "stat_prefix": name,
            "rds": {"config_source": _ADS, "route_config_name": name},
            "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": envoy.TYPE_ROUTER}}],
        }
        if self.kind == GRPC:
            return {"name": name, "api_listener": {"api_listener": manager}}
        port = self.listens.setdefault(name, free_port())
        filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
        address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
        return {"name": name, "address": address, "filter_chains": [{"filters": filters}]}

    async def _start_envoy(self) -> None:
        if self._process is not None:
            return
        bootstrap = self._directory / "envoy.json"
        bootstrap.write_text(json.dumps(_envoy_bootstrap(self._control.port)))
        self._process = await asyncio.create_subprocess_exec(
            *(str(envoy.binary()), "-c", str(bootstrap), "--concurrency", "1", "--disable-hot-restart", "-l", "off")
        )


def _cluster(name: str, *, broken: bool) -> dict[str, Any]:
    cluster: dict[str, Any] = {
        "name": name,
        "type": "EDS",
        "connect_timeout": "1s",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": envoy.TYPE_HTTP,
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        },
    }
    return cluster if broken else {**cluster, "eds_cluster_config": {"eds_config": _ADS}}


def _routes(name: str, clusters: str) -> dict[str, Any]:
    shares = [{"name": cluster, "weight": 1} for cluster in clusters.split("+")]
    to = {"weighted_clusters": {"clusters": shares}} if len(shares) > 1 else {"cluster": clusters}
    route = {"match": {"prefix": ""}, "route": to}
    return {"name": name, "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]}


def _envoy_bootstrap(control: int) -> dict[str, Any]:
    address = {"socket_address": {"address": "127.0.0.1", "port_value": control}}
    cluster = {**_cluster("control", broken=True), "type": "STATIC"}
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": address}}]}]
    service = {"envoy_grpc": {"cluster_name": "control"}}
    ads = {"api_type": "GRPC", "transport_api_version": "V3", "grpc_services": [service]}
    return {
        "node": {"id": ENVOY, "cluster": "scenario"},
        "dynamic_resources": {"ads_config": ads, "cds_config": _ADS, "lds_config": _ADS},
        "static_resources": {
            "clusters": [{**cluster, "load_assignment": {"cluster_name": "control", "endpoints": endpoints}}]
        },
    }


@asynccontextmanager
async def stage(kind: str, directory: Path) -> AsyncIterator[tuple[ControlPlane, Client]]:
    """A control plane that offers nothing yet, three backends, `one` to `three`, and a client of this kind."""
    control, backends = ControlPlane(), Backends()
    await control.start()
    await backends.start("one", "two", "three")
    bootstrap = directory / "bootstrap.json"
    server = {
        "server_uri": f"127.0.0.1:{control.port}",
        "channel_creds": [{"type": "insecure"}],
        "server_features": FEATURES,
    }
    bootstrap.write_text(json.dumps({"xds_servers": [server], "node": {"id": GRPC}}))
    client = Client(kind, control, backends, directory)
    async with bootstrapped(bootstrap):
        try:
            yield control, client
        finally:
            await client.stop()
            await control.stop()
            await backends.stop()
