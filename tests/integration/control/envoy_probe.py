"""What a real Envoy does with settings that it accepts and ignores: each row alone, and with what makes it count.

Each case is a host of its own on one listener; behind them stands an upstream that fails or waits as its name says.
"""

import asyncio
import copy
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import aiohttp

from deploy.local import envoy
from mesh.control.capabilities import Capability
from mesh.control.resources import rates
from mesh.control.snapshot import CLUSTER, ROUTES
from tests.integration.control.world import eventually
from tests.ports import free_port

_TYPE: Final = "type.googleapis.com/envoy.extensions.filters."
_LIMIT: Final = "envoy.filters.http.local_ratelimit"
_ALWAYS: Final = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
_CALLS: Final = 6
_SLOW_S: Final = 0.3
_WITHIN_S: Final = 20.0
_EJECTION: Final = "ejection after local errors"

# Resources of one case, by their kind and name.
Source = dict[str, dict[str, dict[str, Any]]]
# By a row's name and whether it has its companion: how often each status came, how often the upstream was asked.
Seen = dict[str, dict[bool, tuple[Counter[int], int]]]

# By a row's name: the route or cluster as it should not be.
_WRONG: Final[dict[str, dict[str, Any]]] = {
    "rate limit that is not enabled": {
        "typed_per_filter_config": {_LIMIT: {"filter_enforced": _ALWAYS}},
    },
    "rate limit that is not enforced": {
        "typed_per_filter_config": {_LIMIT: {"filter_enabled": _ALWAYS}},
    },
    "hedging without a limit for each try": {
        "route": {"retry_policy": {"retry_on": "5xx"}, "hedge_policy": {"hedge_on_per_try_timeout": True}}
    },
    "retry on a word that is none": {"route": {"retry_policy": {"retry_on": "5xxx", "num_retries": 1}}},
    _EJECTION: {
        "outlier_detection": {
            "interval": "0.1s",
            "consecutive_local_origin_failure": 1,
            "max_ejection_percent": 100,
            "enforcing_consecutive_5xx": 0,
            "enforcing_consecutive_gateway_failure": 0,
        }
    },
}
# What makes it work.
_RIGHT: Final[dict[str, dict[str, Any]]] = {
    "rate limit that is not enabled": {"typed_per_filter_config": {_LIMIT: {"filter_enabled": _ALWAYS}}},
    "rate limit that is not enforced": {"typed_per_filter_config": {_LIMIT: {"filter_enforced": _ALWAYS}}},
    "hedging without a limit for each try": {"route": {"retry_policy": {"per_try_timeout": "0.05s"}}},
    "retry on a word that is none": {"route": {"retry_policy": {"retry_on": "5xx"}}},
    _EJECTION: {"outlier_detection": {"split_external_local_origin_errors": True}},
}


def configuration(capability: Capability, *, right: bool, upstream: int = 1, nobody: int = 2) -> dict[str, Any]:
    """The resources of one case. `nobody`: a port on which no one listens."""
    name = ("right-" if right else "wrong-") + capability.name.replace(" ", "-")
    ports = [nobody, upstream] if capability.kind == CLUSTER else [upstream]
    addresses = [{"socket_address": {"address": "127.0.0.1", "port_value": port}} for port in ports]
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": address}} for address in addresses]}]
    cluster: dict[str, Any] = {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "0.5s",
        "load_assignment": {"cluster_name": name, "endpoints": endpoints},
    }
    route: dict[str, Any] = {"match": {"prefix": "/"}, "route": {"cluster": name, "timeout": "5s"}}
    target = cluster if capability.kind == CLUSTER else route
    _merge(target, _WRONG[capability.name])
    if right:
        _merge(target, _RIGHT[capability.name])
    for limit in route.get("typed_per_filter_config", {}).values():
        limit["@type"] = f"{_TYPE}http.local_ratelimit.v3.LocalRateLimit"
        limit["stat_prefix"] = "probe"
        limit["token_bucket"] = {"max_tokens": 1, "tokens_per_fill": 1, "fill_interval": "60s"}
    host = {"name": name, "domains": [name], "routes": [route]}
    return {CLUSTER: {name: cluster}, ROUTES: {name: {"name": name, "virtual_hosts": [host]}}}


def _merge(into: dict[str, Any], more: dict[str, Any]) -> None:
    for key, value in copy.deepcopy(more).items():
        if isinstance(value, dict):
            _merge(into.setdefault(key, {}), value)
        else:
            into[key] = value


class Upstream:
    """Counts what each host was asked, and does as the host's name says."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            lines = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()
            host = next(line[5:].strip() for line in lines if line.lower().startswith("host:"))
            self.seen[host] += 1
            status = "503 No" if "retry-on" in host else "200 Yes"
            if "hedging" in host:
                await asyncio.sleep(_SLOW_S)
            writer.write(f"HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode())
        finally:
            # Also where the asker went away before it asked.
            writer.close()


async def probe(directory: Path, capabilities: tuple[Capability, ...]) -> Seen:
    """What each row showed, alone and with its companion."""
    upstream = Upstream()
    server = await asyncio.start_server(upstream.answer, "127.0.0.1", 0)
    port, nobody, listen = server.sockets[0].getsockname()[1], free_port(), free_port()
    found: Seen = {}
    sources = {
        (each.name, right): configuration(each, right=right, upstream=port, nobody=nobody)
        for each in capabilities
        for right in (False, True)
    }
    async with server, running(directory, listen, list(sources.values())), aiohttp.ClientSession() as session:
        for (name, right), source in sources.items():
            (host,) = source[CLUSTER]
            if right and name == _EJECTION:
                # Its own thread ejects, and the one that meets the error does not wait for it.
                await eventually(partial(_all_well, session, listen, host), "the host that nobody is at is left out")
            before = upstream.seen[host]
            statuses = await _called(session, listen, host)
            found.setdefault(name, {})[right] = (statuses, upstream.seen[host] - before)
    return found


async def _called(session: aiohttp.ClientSession, listen: int, host: str) -> Counter[int]:
    statuses: Counter[int] = Counter()
    for _ in range(_CALLS):
        async with session.get(f"http://127.0.0.1:{listen}/", headers={"host": host}) as answer:
            statuses[answer.status] += 1
    return statuses


async def _all_well(session: aiohttp.ClientSession, listen: int, host: str) -> bool:
    return await _called(session, listen, host) == {200: _CALLS}


@asynccontextmanager
async def running(directory: Path, listen: int, sources: list[dict[str, Any]]) -> AsyncIterator[None]:
    """An Envoy on this port of every address of this machine, with the hosts of all sources."""
    hosts = [host for source in sources for routes in source[ROUTES].values() for host in routes["virtual_hosts"]]
    filters = [
        *rates.of_the_public(),
        {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{_TYPE}http.router.v3.Router"}},
    ]
    manager = {
        "@type": f"{_TYPE}network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "probe",
        "use_remote_address": True,
        "http_filters": filters,
        "route_config": {"virtual_hosts": hosts},
    }
    listener = {
        "name": "probe",
        "address": {"socket_address": {"address": "0.0.0.0", "port_value": listen}},
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        ],
    }
    clusters = [cluster for source in sources for cluster in source[CLUSTER].values()]
    bootstrap = directory / "bootstrap.json"
    bootstrap.write_text(json.dumps({"static_resources": {"listeners": [listener], "clusters": clusters}}))
    process = await asyncio.create_subprocess_exec(
        *(str(envoy.binary()), "-c", str(bootstrap), "--concurrency", "1", "--disable-hot-restart", "-l", "error")
    )
    try:
        await eventually(lambda: _listens(listen), "the probed Envoy listens", _WITHIN_S)
        yield
    finally:
        process.kill()
        await process.wait()


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True
