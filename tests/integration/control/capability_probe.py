"""Shows a real grpcio client each measured setting, and writes what it did as JSON to standard output.

A process of its own, since gRPC reads its xDS bootstrap from the environment. Takes a directory as its argument.
"""

import asyncio
import copy
import json
import os
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
from envoy.service.discovery.v3 import ads_pb2_grpc

from mesh.control.capabilities import GRPC, Capability, Effect
from mesh.control.compile import packed
from mesh.control.conversation import Conversation, Nack
from mesh.control.history import Configuration
from mesh.control.snapshot import CLUSTER, ENDPOINTS, LISTENER, ROUTES, Snapshot, pack

_TYPE = "type.googleapis.com/envoy.extensions.filters."
_ADS = {"ads": {}, "resource_api_version": "V3"}
_METHOD = "/probe.Probe/Ask"
_VALUES: dict[str, Any] = {
    "route timeout": "0.05s",
    # With every call answered at once, all of a second is missing of it.
    "stream duration": {"max_stream_duration": "1s"},
    "stream duration for all": "1s",
    "prefix rewrite": "/elsewhere",
    "retry on the next priority": {
        "name": "envoy.retry_priorities.previous_priorities",
        "typed_config": {
            "@type": "type.googleapis.com/"
            "envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig",
            "update_frequency": 1,
        },
    },
    "mirroring": [{"cluster": "mirror"}],
    "ejection after consecutive errors": 1,
    "retry budget": {"budget_percent": {"value": 0}, "min_retry_concurrency": 0},
    "active health checks": [
        {
            "timeout": "0.1s",
            "interval": "0.05s",
            "unhealthy_threshold": 1,
            "healthy_threshold": 1,
            "grpc_health_check": {},
        }
    ],
}


class Backend:
    """Answers, late, or not at all, and counts what it was asked."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self.delay_s = 0.0
        self.fails = False
        self.port = 0

    async def start(self) -> grpc.aio.Server:
        async def answer(request: bytes, context: Any) -> bytes:
            await asyncio.sleep(self.delay_s)
            if self.fails:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "as told")
            return b""

        backend = self

        class Any_(grpc.GenericRpcHandler):
            def service(self, details: grpc.HandlerCallDetails) -> Any:
                backend.seen[details.method] += 1
                return grpc.unary_unary_rpc_method_handler(answer)

        server = grpc.aio.server(handlers=(Any_(),))
        self.port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        return server


class Ads(ads_pb2_grpc.AggregatedDiscoveryServiceServicer):  # type: ignore[misc]
    def __init__(self) -> None:
        self.snapshot = Snapshot.of({})
        self.nacks: list[str] = []

    async def StreamAggregatedResources(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        conversation = Conversation()
        async for request in requests:
            event = conversation.receive(request)
            if isinstance(event, Nack):
                self.nacks.append(event.reason)
            while (response := conversation.next(self.snapshot, time.monotonic())) is not None:
                yield response


def configuration(capability: Capability, value: Any, name: str) -> Configuration:
    """One target's resources, with one setting as it should not be."""
    cluster = {
        "name": name,
        "type": "EDS",
        "eds_cluster_config": {"eds_config": _ADS, "service_name": name},
        "circuit_breakers": {"thresholds": [{"max_requests": 100}]},
    }
    if capability.path.startswith("outlier_detection"):
        cluster["outlier_detection"] = {
            "interval": "0.05s",
            "base_ejection_time": "30s",
            "enforcing_consecutive_5xx": 100,
        }
    if value in ("STRICT_DNS", "STATIC"):
        del cluster["eds_cluster_config"]
    route = {
        "cluster": name,
        "retry_policy": {"retry_on": "unavailable", "num_retries": 2, "retry_back_off": {"base_interval": "0.01s"}},
    }
    routes = {
        "name": name,
        "virtual_hosts": [{"name": "a", "domains": ["*"], "routes": [{"match": {"prefix": ""}, "route": route}]}],
    }
    router = {"name": "router", "typed_config": {"@type": f"{_TYPE}http.router.v3.Router"}}
    filters = [router]
    if capability.path.endswith("@type"):
        filters.insert(0, {"name": "probed", "typed_config": {"@type": value}})
    manager = {
        "@type": f"{_TYPE}network.http_connection_manager.v3.HttpConnectionManager",
        "rds": {"config_source": _ADS, "route_config_name": name},
        "http_filters": filters,
    }
    listener = {"name": name, "api_listener": {"api_listener": manager}}
    source: dict[str, dict[str, dict[str, Any]]] = {
        CLUSTER: {name: cluster},
        ROUTES: {name: routes},
        LISTENER: {name: listener},
    }
    if not capability.path.endswith("@type"):
        _put(source[capability.kind][name], capability.path.split("/"), value)
    return copy.deepcopy(source)


def _put(resource: Any, path: list[str], value: Any) -> None:
    head, *rest = path
    key: Any = 0 if head == "*" else head
    if not rest:
        resource[key] = value
    else:
        if head != "*":
            resource.setdefault(key, [{}] if rest[0] == "*" else {})
        _put(resource[key], rest, value)


async def probe(directory: Path) -> list[dict[str, Any]]:
    # The types inside an Any must be known where it is parsed.
    from envoy.extensions.filters.http.ext_authz.v3 import ext_authz_pb2 as _  # noqa: F401
    from envoy.extensions.filters.http.local_ratelimit.v3 import local_rate_limit_pb2 as __  # noqa: F401
    from envoy.extensions.retry.priority.previous_priorities.v3 import (
        previous_priorities_config_pb2 as ___,  # noqa: F401
    )

    first, second, mirror = Backend(), Backend(), Backend()
    servers = [await backend.start() for backend in (first, second, mirror)]
    ads = Ads()
    control = grpc.aio.server()
    ads_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server(ads, control)
    port = control.add_insecure_port("127.0.0.1:0")
    await control.start()
    bootstrap = directory / "bootstrap.json"
    server = {"server_uri": f"127.0.0.1:{port}", "channel_creds": [{"type": "insecure"}], "server_features": ["xds_v3"]}
    bootstrap.write_text(json.dumps({"xds_servers": [server], "node": {"id": "probe"}}))
    os.environ["GRPC_XDS_BOOTSTRAP"] = str(bootstrap)
    results = []
    cases = [(each, value) for each in GRPC for value in sorted(each.values) or [_VALUES[each.name]]]
    for number, (capability, value) in enumerate(cases):
        name = f"target-{number}"
        for backend in (first, second, mirror):
            backend.seen.clear()
            backend.delay_s, backend.fails = 0.0, False
        resources = packed(configuration(capability, value, name))
        assigned = {name: _endpoints(name, first, second), "mirror": _endpoints("mirror", mirror)}
        if capability.name == "retry on the next priority":
            assigned[name] = _by_priority(name, {0: first, 1: second})
        ads.snapshot = Snapshot.of({**resources, ENDPOINTS: pack(assigned)})
        async with grpc.aio.insecure_channel(f"xds:///{name}") as channel:
            ask: Any = channel.unary_unary(_METHOD)
            held = await _shown(capability, ask, first, second, mirror)
            nack = await _nack(ads, name) if capability.effect is Effect.REFUSED else "".join(ads.nacks)
        ads.nacks.clear()
        results.append({"name": capability.name, "value": value, "shown": held, "nack": nack})
    results.append(await _gap(ads, first, second))
    await asyncio.gather(*(each.stop(0) for each in (control, *servers)))
    return results


async def _gap(ads: Ads, first: Backend, second: Backend) -> dict[str, Any]:
    """Endpoints are no configuration and in no row, but they are the control plane's own: what it must keep to."""
    name = "gap"
    resources = packed(configuration(GRPC[0], "1s", name))
    ads.snapshot = Snapshot.of({**resources, ENDPOINTS: pack({name: _by_priority(name, {0: first, 2: second})})})
    async with grpc.aio.insecure_channel(f"xds:///{name}") as channel:
        ask: Any = channel.unary_unary(_METHOD)
        try:
            await ask(b"", timeout=2)
            held = False
        except grpc.aio.AioRpcError:
            held = True
        return {"name": "a gap in the priorities", "shown": held, "nack": await _nack(ads, name)}


async def _nack(ads: Ads, name: str) -> str:
    """The reason with which the client has refused the target's resource; "" when it does not come."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        for reason in ads.nacks:
            if name in reason:
                return reason
        await asyncio.sleep(0.01)
    return ""


async def _shown(capability: Capability, ask: Any, first: Backend, second: Backend, mirror: Backend) -> bool:
    """Whether the client did as the table says."""
    if capability.effect is Effect.REFUSED:
        try:
            await ask(b"", timeout=2)
        except grpc.aio.AioRpcError as error:
            return error.code() is grpc.StatusCode.UNAVAILABLE
        return False
    if capability.name == "route timeout":
        first.delay_s = second.delay_s = 0.4
    if capability.name == "ejection after consecutive errors":
        first.fails = True
    if capability.name == "retry on the next priority":
        first.fails = True
    if capability.name == "retry budget":
        first.fails = second.fails = True
    failed = late = 0
    # Each call takes a while, so that what works by intervals gets its time.
    for _ in range(12):
        try:
            await ask(b"", timeout=5)
        except grpc.aio.AioRpcError as error:
            failed += 1
            late += error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        if capability.name in ("ejection after consecutive errors", "active health checks"):
            await asyncio.sleep(0.05)
    asked = first.seen[_METHOD] + second.seen[_METHOD]
    return {
        "route timeout": failed == 0,
        "stream duration": late == 12,
        "stream duration for all": late == 12,
        "prefix rewrite": asked == 12 and set(first.seen) | set(second.seen) == {_METHOD},
        "mirroring": failed == 0 and not mirror.seen,
        # Each of the two retries went where the call had failed.
        "retry on the next priority": failed == 12 and first.seen[_METHOD] == 36 and not second.seen,
        # Ejected, it would have been asked once or twice.
        "ejection after consecutive errors": first.seen[_METHOD] >= 5,
        # Two retries for every call, though none is granted.
        "retry budget": failed == 12 and asked == 36,
        "active health checks": failed == 0 and set(first.seen) | set(second.seen) == {_METHOD},
    }[capability.name]


def _endpoints(name: str, *backends: Backend) -> Any:
    from envoy.config.endpoint.v3 import endpoint_pb2

    message = endpoint_pb2.ClusterLoadAssignment(cluster_name=name)
    locality = message.endpoints.add(locality={"zone": "a"}, load_balancing_weight={"value": 1})
    for backend in backends:
        socket = {"socket_address": {"address": "127.0.0.1", "port_value": backend.port}}
        locality.lb_endpoints.add(endpoint={"address": socket})
    return message


def _by_priority(name: str, backends: dict[int, Backend]) -> Any:
    message = _endpoints(name)
    del message.endpoints[:]
    for priority, backend in backends.items():
        message.endpoints.extend(_endpoints(name, backend).endpoints)
        message.endpoints[-1].priority = priority
        message.endpoints[-1].locality.sub_zone = str(priority)
    return message


if __name__ == "__main__":
    print(json.dumps(asyncio.run(probe(Path(sys.argv[1])))))
