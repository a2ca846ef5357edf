"""Keeps what a gateway works with, and gives it back when the gateway starts while its control plane is away.

An Envoy has no process of its own beside it, so whoever starts it does this; on Kubernetes a container in its pod.
"""

import asyncio
from functools import partial
from typing import Any, Final

import aiohttp

from deploy.local import configuration, envoy
from deploy.local.settings import Home
from deploy.local.topology import Process
from mesh.fallback import NAME, Fallback
from mesh.lastgood import FILE, MARK, LastGood

_DEADLINE_S: Final = 3.0
_NAMES: Final = ("name", "cluster_name")


def fallback(home: Home, process: Process) -> Fallback:
    """Of one gateway."""
    last_good = LastGood(home.run(process.name) / FILE, by_name=False)
    return Fallback(envoy.fallback_socket(home, process.name), last_good, partial(_applied, home, process))


async def told_by(home: Home, process: Process) -> str:
    """Who has configured a gateway last, as it says itself; "" for nobody. What does not change keeps its version."""
    found = await configuration.admin(home, process, "stats?format=json&filter=^control_plane.identifier$")
    return next((str(stat["value"]) for stat in found["stats"] if "value" in stat), "")


async def _applied(home: Home, process: Process) -> bytes:
    """What the gateway works with, as far as its control plane has told it; b"" while it does not answer."""
    try:
        async with asyncio.timeout(_DEADLINE_S):
            if await told_by(home, process) in ("", NAME):
                return b""
            dump = await configuration.admin(home, process, "config_dump?include_eds")
    except (OSError, TimeoutError, ValueError, aiohttp.ClientError):
        return b""
    return await asyncio.to_thread(_answer, dump)


def _answer(dump: dict[str, Any]) -> bytes:
    # Also for the types inside each resource's Any.
    from envoy.service.status.v3 import csds_pb2
    from google.protobuf import any_pb2
    from google.protobuf.json_format import ParseDict

    from mesh.control import compile as _compile  # noqa: F401

    config = csds_pb2.ClientConfig()
    for kind, version, resource in configuration.resources(dump):
        name = next(str(resource[each]) for each in _NAMES if each in resource)
        content = ParseDict(resource, any_pb2.Any())
        config.generic_xds_configs.add(
            type_url=kind, name=name, version_info=version.removesuffix(MARK), xds_config=content
        )
    answer: bytes = csds_pb2.ClientStatusResponse(config=[config]).SerializeToString(deterministic=True)
    return answer
