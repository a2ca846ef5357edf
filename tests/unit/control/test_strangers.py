"""Whose certificate is refused is named, by a look that trusts nobody and tells nobody who looks."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
import time_machine

from mesh.control import strangers
from mesh.control.health import Health, State
from mesh.control.registry import Endpoint
from mesh.control.strangers import shown
from mesh.spiffe import SpiffeId
from mesh.tls import Identity
from tests.unit.mesh.conftest import Zone

ORDERS = SpiffeId("private", "orders")
WITHIN_S = 30.0


@contextlib.asynccontextmanager
async def serving(leaf: Path) -> AsyncIterator[tuple[str, list[object]]]:
    """Where a server with this leaf asks for certificates, and those that it was shown."""
    seen: list[object] = []

    async def met(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(writer.get_extra_info("peercert"))
        writer.close()

    server = await asyncio.start_server(met, "127.0.0.1", 0, ssl=Identity(leaf).ssl_context(server=True))
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}", seen


@pytest.fixture
def private(tmp_path: Path) -> Zone:
    return Zone(tmp_path, "private")


@pytest.fixture
def looker(private: Zone) -> Identity:
    return Identity(private.issue("control-private"))


async def test_a_good_certificate_has_nothing_wrong(private: Zone, looker: Identity) -> None:
    async with serving(private.issue("orders")) as (address, seen):
        assert await shown(address, looker, ORDERS, WITHIN_S) == ""
    # Who looks shows no certificate, and so comes no further than the handshake.
    assert seen == []


@pytest.mark.parametrize(
    ("zone", "trust_domain", "workload", "said"),
    [
        ("private", "isthmus.internal", "members", ["it is of spiffe://isthmus.internal/private/members"]),
        (
            "public",
            "isthmus.internal",
            "orders",
            ["it is of spiffe://isthmus.internal/public/orders", "whom this zone does not trust"],
        ),
        (
            "private",
            "elsewhere.test",
            "orders",
            ["it is of spiffe://elsewhere.test/private/orders", "whom this zone does not trust"],
        ),
    ],
)
async def test_what_is_wrong_is_said(
    tmp_path: Path, looker: Identity, zone: str, trust_domain: str, workload: str, said: list[str]
) -> None:
    same = (zone, trust_domain) == ("private", "isthmus.internal")
    of = Zone(tmp_path if same else tmp_path / "elsewhere", zone, trust_domain)
    async with serving(of.issue(workload)) as (address, _):
        found = await shown(address, looker, ORDERS, WITHIN_S)
    assert len(found.split("; ")) == len(said)
    assert all(each in found for each in said), found


async def test_that_it_has_ended_is_said(private: Zone, looker: Identity) -> None:
    async with serving(private.issue("orders")) as (address, _):
        with time_machine.travel(datetime.now(UTC) + timedelta(hours=2)):
            found = await shown(address, looker, ORDERS, WITHIN_S)
    assert found.startswith("expired at ")


async def test_a_grpc_server_shows_its_certificate_too(tmp_path: Path, looker: Identity) -> None:
    server = grpc.aio.server()
    leaf = Zone(tmp_path, "public").issue("orders")
    port = server.add_secure_port("127.0.0.1:0", Identity(leaf).server_credentials())
    await server.start()
    try:
        found = await shown(f"127.0.0.1:{port}", looker, ORDERS, WITHIN_S)
    finally:
        await server.stop(0)
    assert "it is of spiffe://isthmus.internal/public/orders" in found


async def test_where_no_certificate_is_shown_nothing_is_said(private: Zone, looker: Identity) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        assert await shown(address, looker, ORDERS, 0.1) == ""
    assert await shown(address, looker, ORDERS, WITHIN_S) == ""
    old = Identity(private.issue("orders")).ssl_context(server=True)
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_2
    async with await asyncio.start_server(silent, "127.0.0.1", 0, ssl=old) as server:
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        assert await shown(address, looker, ORDERS, WITHIN_S) == ""


async def test_a_process_with_a_certificate_of_the_other_zone_is_unhealthy_and_named_once(
    tmp_path: Path, looker: Identity, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    looks = asyncio.Queue[str]()

    async def look(*arguments: Any) -> str:
        looks.put_nowait(found := await shown(*arguments))
        return found

    monkeypatch.setattr(strangers, "shown", look)
    health = Health(looker, "isthmus.internal", lambda: None, interval_s=0.02, timeout_s=WITHIN_S, probes_max=2)
    async with serving(Zone(tmp_path, "public").issue("orders")) as (address, _):
        port = int(address.split(":")[1])
        health.watch([Endpoint("orders", "metrics", "orders-1", "private", "127.0.0.1", port, protocol="https")])
        try:
            async with asyncio.timeout(WITHIN_S):
                found = [await looks.get() for _ in range(2)]
        finally:
            await health.stop(1)
    assert health.state("orders-1") is State.UNHEALTHY
    events = [vars(record)["isthmus_event"] for record in caplog.records if record.msg == "%s"]
    (told,) = [each for each in events if "certificate" in each]
    assert (told["endpoint"], told["at"]) == ("orders-1", address)
    assert told["certificate"] == found[0] == found[1]
    assert "it is of spiffe://isthmus.internal/public/orders" in told["certificate"]
