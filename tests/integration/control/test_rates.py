"""How often one address and one slot may ask, as compiled from the contract, at a real Envoy; with smaller limits."""

import asyncio
import dataclasses
import time
from collections import Counter
from pathlib import Path

import aiohttp
import pytest

from mesh.contract import load
from mesh.contract.model import RateLimit
from mesh.control.resources import rates
from mesh.control.resources.view import View
from mesh.control.snapshot import CLUSTER, ROUTES
from tests.integration.control import envoy_probe
from tests.ports import free_port

BURST = 5
CALLS = 60
SMALL, LARGE = RateLimit(per_second=1, burst=BURST), RateLimit(per_second=100_000, burst=100_000)
DECIDE = "/isthmus.ads.v1.Ads/Decide"


def source(host: str, upstream: int, address: RateLimit, key: RateLimit) -> envoy_probe.Source:
    """A host with the limits of ad requests, but for these two."""
    contract = load()
    method = contract.methods[DECIDE]
    small = dataclasses.replace(contract.rates[method.rate_class], gateway=LARGE, address=address, key=key)
    limited = dataclasses.replace(contract, rates={**contract.rates, method.rate_class: small})
    view = View("isthmus.internal", "public", limited, (), "https://issuer.test", "isthmus-core", Path("/run"))
    at = {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": upstream}}}}
    cluster = {
        "name": host,
        "type": "STATIC",
        "load_assignment": {"cluster_name": host, "endpoints": [{"lb_endpoints": [at]}]},
    }
    route = {
        "match": {"prefix": "/"},
        "route": {"cluster": host},
        "typed_per_filter_config": rates.limited(view, method),
    }
    hosts = [{"name": host, "domains": [host], "routes": [route]}]
    return {CLUSTER: {host: cluster}, ROUTES: {host: {"name": host, "virtual_hosts": hosts}}}


async def statuses(port: int, host: str, address: str, slot: str, calls: int = CALLS) -> Counter[int]:
    """What so many ad requests for a slot from one address of this machine were answered."""
    found: Counter[int] = Counter()
    connector = aiohttp.TCPConnector(local_addr=(address, 0))
    async with aiohttp.ClientSession(connector=connector) as session:
        for _ in range(calls):
            url = f"http://127.0.0.1:{port}/v1/ads:decide?slot={slot}"
            async with session.get(url, headers={"host": host}) as answer:
                found[answer.status] += 1
    return found


@pytest.mark.parametrize("by", ["address", "slot"])
async def test_one_that_asks_too_often_is_refused_and_the_others_are_not(tmp_path: Path, by: str) -> None:
    upstream = envoy_probe.Upstream()
    server = await asyncio.start_server(upstream.answer, "127.0.0.1", 0)
    at, listen = server.sockets[0].getsockname()[1], free_port()
    limits = (SMALL, LARGE) if by == "address" else (LARGE, SMALL)
    async with server, envoy_probe.running(tmp_path, listen, [source("limited", at, *limits)]):
        started = time.monotonic()
        greedy = await statuses(listen, "limited", "127.0.0.2", "one")
        # A token more for each second that it took.
        assert BURST <= greedy[200] <= BURST + 1 + time.monotonic() - started
        assert greedy[429] == CALLS - greedy[200]
        address, slot = ("127.0.0.3", "one") if by == "address" else ("127.0.0.2", "two")
        assert await statuses(listen, "limited", address, slot, BURST) == {200: BURST}
