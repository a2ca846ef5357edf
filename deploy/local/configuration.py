"""What the control planes have told the data planes, and what those have applied."""

import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
import grpc

from deploy.local import envoy
from deploy.local.errors import NotRunning, UnknownName
from deploy.local.settings import Home
from deploy.local.topology import Process, Topology
from mesh.lastgood import MARK

CONTROL_PLANES: Final = ("control-public", "control-private")
_DEADLINE_S: Final = 3.0
_ANSWER_BYTES_MAX: Final = 64 << 20
_CSDS: Final = "/envoy.service.status.v3.ClientStatusDiscoveryService/FetchClientStatus"
# Older than this, a control plane's own report says that it hangs or is gone; it writes every two seconds.
STALE_S: Final = 10.0
_SHORT: Final = {"Cluster": "CDS", "ClusterLoadAssignment": "EDS", "Listener": "LDS", "RouteConfiguration": "RDS"}


@dataclass(frozen=True)
class Report:
    """status.json of one control plane."""

    control: str
    age_s: float
    planes: list[dict[str, Any]]
    changes: list[dict[str, Any]]
    endpoints: dict[str, str]


def reports(home: Home) -> list[Report]:
    """The reports of both zones' control planes, as far as they have written one. Raises NotRunning for none at all."""
    found = []
    for control in CONTROL_PLANES:
        try:
            content = json.loads((home.run(control) / "status.json").read_bytes())
        except FileNotFoundError:
            continue
        age_s = max(0.0, time.time() - content["written"])
        found.append(Report(control, age_s, content["planes"], content["changes"], content["endpoints"]))
    if not found:
        raise NotRunning(f"No control plane has reported in {home.root}", "Start a mesh with `make run`")
    return found


def newest(home: Home, group: str, configuration: str) -> tuple[Report, dict[str, Any]]:
    """The newest change of the group to which a configuration belongs, and who reports it. Raises UnknownName."""
    for report in reports(home):
        changes = [change for change in report.changes if change["group"] == group]
        if any(change["configuration"] == configuration for change in changes):
            return report, changes[-1]
    raise UnknownName(f"{group} has no configuration {configuration}", "See them: isthmus config history")


def short(kind: str) -> str:
    """CDS for type.googleapis.com/envoy.config.cluster.v3.Cluster, and so on."""
    return _SHORT.get(kind.rsplit(".", 1)[-1], kind)


def sources(home: Home, group: str) -> dict[str, Path]:
    """The kept configurations of a group, by name."""
    found = [path for control in CONTROL_PLANES for path in (home.run(control) / "configurations").glob("*.json")]
    return {path.stem.removeprefix(f"{group}-"): path for path in found if path.stem.startswith(f"{group}-")}


def difference(home: Home, group: str, before: str, after: str) -> list[dict[str, Any]]:
    """The resources in which two configurations of a group differ: {type, name, change, before, after}."""
    kept = sources(home, group)
    for name in (before, after):
        if name not in kept:
            raise UnknownName(f"{group} has no configuration {name}", "See them: isthmus config history")
    old, new = (json.loads(kept[name].read_bytes()) for name in (before, after))
    rows = []
    for kind in sorted(old.keys() | new.keys()):
        were, are = old.get(kind, {}), new.get(kind, {})
        for name in sorted(were.keys() | are.keys()):
            if were.get(name) != are.get(name):
                change = "added" if name not in were else "removed" if name not in are else "changed"
                row = {"type": short(kind), "name": name, "change": change}
                rows.append({**row, "before": were.get(name), "after": are.get(name)})
    return rows


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
