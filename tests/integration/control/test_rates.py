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


def source(host: str, upstream: int, address: RateLimit, key: RateLimit, *, body: bool = True) -> envoy_probe.Source:
    """A host with the limits of ad requests, but for these two, as where they come with a body or without one."""
    contract = load()
    method = contract.methods[DECIDE]
    small = dataclasses.replace(contract.rates[method.rate_class], gateway=LARGE, address=address, key=key)
    limited = dataclasses.replace(contract, rates={**contract.rates, method.rate_class: small})
    view = View("isthmus.internal", "public", limited, (), "https://issuer.test", "isthmus-core", Path("/run"))
    rule = next(rule for rule in method.http if bool(rule.body) is body)
    at = {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": upstream}}}}
    cluster = {
        "name": host,
        "type": "STATIC",
        "load_assignment": {"cluster_name": host, "endpoints": [{"lb_endpoints": [at]}]},
    }
    route = {
        "match": {"prefix": "/"},
        "route": {"cluster": host},
        "typed_per_filter_config": rates.limited(view, method, rule),
    }
    hosts = [{"name": host, "domains": [host], "routes": [route]}]
    return {CLUSTER: {host: cluster}, ROUTES: {host: {"name": host, "virtual_hosts": hosts}}}


async def statuses(
    port: int, host: str, address: str, slot: str, calls: int = CALLS, body: bytes | None = None
) -> Counter[int]:
    """What so many ad requests from one address of this machine were answered: for a slot, or with a body."""
    found: Counter[int] = Counter()
    connector = aiohttp.TCPConnector(local_addr=(address, 0))
    url, headers = f"http://127.0.0.1:{port}/v1/ads:decide", {"host": host, "content-type": "application/json"}
    async with aiohttp.ClientSession(connector=connector) as session:
        for _ in range(calls):
            asked = (
                session.post(url, data=body, headers=headers)
                if body
                else session.get(f"{url}?slot={slot}", headers=headers)
            )
            async with asked as answer:
                found[answer.status] += 1
    return found


@pytest.mark.parametrize("body", [False, True])
@pytest.mark.parametrize("by", ["address", "slot"])
async def test_one_that_asks_too_often_is_refused_and_the_others_are_not(tmp_path: Path, by: str, body: bool) -> None:
    upstream = envoy_probe.Upstream()
    server = await asyncio.start_server(upstream.answer, "127.0.0.1", 0)
    at, listen = server.sockets[0].getsockname()[1], free_port()
    limits = (SMALL, LARGE) if by == "address" else (LARGE, SMALL)
    async with server, envoy_probe.running(tmp_path, listen, [source("limited", at, *limits, body=body)]):
        started = time.monotonic()
        greedy = await statuses(listen, "limited", "127.0.0.2", "one")
        # A token more for each second that it took.
        assert BURST <= greedy[200] <= BURST + 1 + time.monotonic() - started
        assert greedy[429] == CALLS - greedy[200]
        address, slot = ("127.0.0.3", "one") if by == "address" else ("127.0.0.2", "two")
        assert await statuses(listen, "limited", address, slot, BURST) == {200: BURST}


async def test_a_slot_has_one_bucket_wherever_it_stands(tmp_path: Path) -> None:
    upstream = envoy_probe.Upstream()
    server = await asyncio.start_server(upstream.answer, "127.0.0.1", 0)
    at, listen = server.sockets[0].getsockname()[1], free_port()
    still = RateLimit(per_second=1, burst=BURST)

    async def asked(slot: str, calls: int, body: bytes | None = None) -> Counter[int]:
        return await statuses(listen, "limited", "127.0.0.2", slot, calls, body)

    async with server, envoy_probe.running(tmp_path, listen, [source("limited", at, LARGE, still)]):
        started = time.monotonic()
        found = await asked("one", BURST, b'{"slot": "one"}')
        for spelled in (b'{"viewer": "v", "slot": "one"}', b'{"sl\\u006ft": "one"}', b'{"slot": "two", "slot": "one"}'):
            found += await asked("one", CALLS, spelled)
        found += await asked("one", CALLS)
        assert BURST <= found[200] <= BURST + 1 + time.monotonic() - started
        # What cannot be read has one, too, and another slot's is full.
        started = time.monotonic()
        unreadable = await asked("", CALLS, b'{"slot": "three"')
        assert BURST <= unreadable[200] <= BURST + 1 + time.monotonic() - started
        assert await asked("three", BURST, b'{"slot": "three"}') == {200: BURST}
        assert await asked("two", BURST) == {200: BURST}


async def test_an_address_is_refused_before_its_body_has_come(tmp_path: Path) -> None:
    upstream = envoy_probe.Upstream()
    server = await asyncio.start_server(upstream.answer, "127.0.0.1", 0)
    at, listen = server.sockets[0].getsockname()[1], free_port()
    async with server, envoy_probe.running(tmp_path, listen, [source("limited", at, SMALL, LARGE)]):
        head = b"POST /v1/ads:decide HTTP/1.1\r\nhost: limited\r\ncontent-type: application/json\r\n"
        answers = []
        for _ in range(BURST + 2):
            reader, writer = await asyncio.open_connection("127.0.0.1", listen)
            writer.write(head + b"content-length: 16\r\n\r\n")
            answers.append((reader, writer))
        # Those within the burst go on waiting for their bodies.
        reader, _ = answers[-1]
        assert (await asyncio.wait_for(reader.read(12), 30)) == b"HTTP/1.1 429"
        for _, writer in answers:
            writer.close()
