"""What the data planes have applied, as they say themselves."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any, Final

import aiohttp
import grpc

from deploy.local import envoy
from deploy.local.settings import Home
from deploy.local.topology import Process, Topology
from mesh.lastgood import MARK

_DEADLINE_S: Final = 3.0
_ANSWER_BYTES_MAX: Final = 64 << 20
_CSDS: Final = "/envoy.service.status.v3.ClientStatusDiscoveryService/FetchClientStatus"


async def applied(home: Home, running: Topology) -> dict[str, dict[str, set[str]]]:
    """By node, then by type: the versions that a data plane works with, as it says itself. Silent ones are left out."""

    async def ask(process: Process) -> tuple[str, dict[str, set[str]] | None]:
        try:
            async with asyncio.timeout(_DEADLINE_S):
                if process.workload.endswith("-gateway"):
                    return process.node, await _of_envoy(home, process)
                return process.node, await _of_grpc(home, process)
        except (OSError, TimeoutError, aiohttp.ClientError, grpc.aio.AioRpcError, ValueError):
            return process.node, None

    asked = [one for one in running.processes if one.workload.endswith("-gateway") or one.listen("grpc")]
    answers = await asyncio.gather(*(ask(one) for one in asked))
    return {node: found for node, found in answers if found is not None}


async def _of_grpc(home: Home, process: Process) -> dict[str, set[str]]:
    from envoy.service.status.v3 import csds_pb2

    identity = home.identity(process.name)
    credentials = grpc.ssl_channel_credentials(
        *((identity / name).read_bytes() for name in ("bundle.pem", "key.pem", "svid.pem"))
    )
    options = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", _ANSWER_BYTES_MAX))
    found: dict[str, set[str]] = {}
    async with grpc.aio.secure_channel(str(process.listen("grpc")), credentials, options) as channel:
        call: Any = channel.unary_unary(_CSDS)
        answer = csds_pb2.ClientStatusResponse.FromString(await call(b"", timeout=_DEADLINE_S))
    for config in answer.config:
        for resource in config.generic_xds_configs:
            if resource.version_info:
                found.setdefault(resource.type_url, set()).add(resource.version_info.removesuffix(MARK))
    return found


async def admin(home: Home, process: Process, path: str) -> dict[str, Any]:
    """What a gateway's admin interface answers to a GET."""
    connector = aiohttp.UnixConnector(str(envoy.admin_socket(home, process.name)))
    async with aiohttp.ClientSession(connector=connector) as session, session.get(f"http://admin/{path}") as answer:
        body = await answer.content.read(_ANSWER_BYTES_MAX)
        while part := await answer.content.read(_ANSWER_BYTES_MAX - len(body)):
            body += part
    found: dict[str, Any] = json.loads(body)
    return found


async def _of_envoy(home: Home, process: Process) -> dict[str, set[str]]:
    """Envoy serves no CSDS of its own; its admin interface says the same."""
    found: dict[str, set[str]] = {}
    for kind, version, _ in resources(await admin(home, process, "config_dump?include_eds")):
        if version:
            found.setdefault(kind, set()).add(version.removesuffix(MARK))
    return found


_TYPE: Final = "type.googleapis.com/envoy.config."


def resources(dump: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Type, version and content of what an Envoy works with and was told over ADS, from its config_dump."""
    for section in dump["configs"]:
        # One that has not changed for a while keeps its own older version; the set has the newest.
        whole = section.get("version_info", "")
        active = [one.get("active_state", {}) for one in section.get("dynamic_listeners", [])]
        for kind, found, name in (
            (f"{_TYPE}cluster.v3.Cluster", section.get("dynamic_active_clusters", []), "cluster"),
            (f"{_TYPE}listener.v3.Listener", active, "listener"),
            (f"{_TYPE}route.v3.RouteConfiguration", section.get("dynamic_route_configs", []), "route_config"),
            (
                f"{_TYPE}endpoint.v3.ClusterLoadAssignment",
                section.get("dynamic_endpoint_configs", []),
                "endpoint_config",
            ),
        ):
            for one in found:
                if name in one:
                    yield kind, whole or one.get("version_info", ""), one[name]
