"""What the public notices when parts of the mesh die, freeze, go away or change their certificates: nothing."""

import asyncio
import json
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP

import pytest

from chaos.checkers.books import Books, Traffic, read_settled, read_until
from chaos.demo.replay import operator
from chaos.load.client import Answer
from chaos.load.outcomes import CallFailed, Outcomes
from deploy.local.mesh import LocalMesh
from security.identity import wallet
from security.identity.authority import Authority
from security.identity.bundle import BEHIND_GATEWAY, bundle
from tests.e2e.public import JSON, bearer, problem, public_client

pytestmark = pytest.mark.asyncio(loop_scope="session")
VIEWERS = 8
BACK_WITHIN_S = 120.0


@asynccontextmanager
async def public_traffic(mesh: LocalMesh, slot: str) -> AsyncIterator[Outcomes]:
    """Viewers who ask for ads until the block ends; each request is sent once."""
    outcomes, over = Outcomes(), asyncio.Event()
    asking = json.dumps({"slot": slot}).encode()

    async def viewer() -> None:
        while not over.is_set():
            started = time.monotonic()
            try:
                answer = await client.send("POST", "/v1/ads:decide", asking, JSON)
                if answer.status != 200:
                    raise answer.refused()
            except CallFailed as failure:
                outcomes.bad("ad", failure)
            else:
                outcomes.ok("ad", time.monotonic() - started)

    async with public_client(mesh) as client, asyncio.TaskGroup() as viewers:
        for _ in range(VIEWERS):
            viewers.create_task(viewer())
        try:
            yield outcomes
        finally:
            over.set()


async def seen(outcomes: Outcomes, more: int) -> None:
    """Wait until so many more requests have been answered."""
    wanted, ends = outcomes.total("ad") + more, time.monotonic() + BACK_WITHIN_S
    while outcomes.total("ad") < wanted:
        assert time.monotonic() < ends, "traffic stands still"
        await asyncio.sleep(0.05)


async def back(mesh: LocalMesh, name: str, old_pid: int) -> None:
    ends = time.monotonic() + BACK_WITHIN_S
    while not mesh.process(name).ready.is_set() or mesh.process(name).pid in (None, old_pid):
        assert time.monotonic() < ends, f"{name} did not come back"
        await asyncio.sleep(0.1)


async def landed(mesh: LocalMesh, wanted: Callable[[Books], bool]) -> Books:
    async with operator(mesh) as channel:
        return await read_until(channel, wanted, deadline_s=BACK_WITHIN_S)


async def impressions(mesh: LocalMesh, slot: str, at_least: int | None = None) -> int:
    """What has landed of a slot: once it is so many, or else once nothing more is on its way."""
    if at_least is None:
        async with operator(mesh) as channel:
            books = await read_settled(channel)
    else:
        wanted = at_least
        books = await landed(mesh, lambda books: books.slots.get(slot, Traffic()).impressions >= wanted)
    return books.slots.get(slot, Traffic()).impressions


async def test_nobody_notices_that_an_edge_node_is_killed(mesh: LocalMesh, slot: str) -> None:
    before = await impressions(mesh, slot)
    async with public_traffic(mesh, slot) as outcomes:
        await seen(outcomes, 100)
        pid = mesh.kill("edge-1", SIGKILL)
        await seen(outcomes, 300)
        await back(mesh, "edge-1", pid)
        await seen(outcomes, 300)
    assert outcomes.not_ok("ad") == 0, outcomes.reasons()
    sent = outcomes.total("ad")
    assert await impressions(mesh, slot, before + sent) == before + sent


@pytest.mark.parametrize("name", ["edge-1", "payments-1", "control-private"])
async def test_threads_of_a_process_do_not_preempt_each_other(mesh: LocalMesh, name: str) -> None:
    threads = Path(f"/proc/{mesh.process(name).pid}/task").iterdir()

    policies = Counter(os.sched_getscheduler(int(thread.name)) for thread in threads)

    # Those that were there before the process's own first line are few: of gRPC, and of the certificate's watch.
    assert policies[os.SCHED_BATCH] > policies[os.SCHED_OTHER]


async def test_nobody_notices_that_kafka_is_away_and_all_arrives_when_it_is_back(mesh: LocalMesh, slot: str) -> None:
    before = await impressions(mesh, slot)
    async with public_traffic(mesh, slot) as outcomes:
        await mesh.suspend("kafka")
        try:
            await seen(outcomes, 500)
        finally:
            await mesh.resume("kafka")
        await mesh.wait_ready("kafka", BACK_WITHIN_S)
        await seen(outcomes, 100)
    assert outcomes.not_ok("ad") == 0, outcomes.reasons()
    sent = outcomes.total("ad")
    assert await impressions(mesh, slot, before + sent) == before + sent


async def test_no_call_fails_while_every_certificate_is_replaced(mesh: LocalMesh, slot: str) -> None:
    async with public_client(mesh) as client, public_traffic(mesh, slot) as outcomes:
        headers = await bearer(mesh, client, "orders.read")

        async def sensitive() -> None:
            """An order that is not there: the answer comes from the database, through both gateways."""
            problem(await client.send("GET", "/v1/orders/no-such-order", headers=headers), 404)

        for _ in range(2):
            await asyncio.to_thread(replace_leaves, mesh)
            ends = time.monotonic() + 5
            while time.monotonic() < ends:
                await sensitive()
    assert outcomes.not_ok("ad") == 0, outcomes.reasons()


def replace_leaves(mesh: LocalMesh) -> None:
    """What the zones' agents do at half of a leaf's life, now and for all processes at once."""
    authorities = {
        zone: Authority.open_or_create(mesh.home.root / "ca" / zone, mesh.settings.trust_domain, zone)
        for zone in ("public", "private")
    }
    for row in mesh.rows:
        directory = mesh.home.run(row.name) / "identity"
        if not directory.exists():
            continue
        zone, workload = row.process.zone, row.process.workload
        roots = bundle(mesh.home.root, workload, zone)
        assert roots is not None
        gateway = authorities[zone].gateway_pem if workload in BEHIND_GATEWAY else None
        wallet.write(directory, wallet.Wallet(authorities[zone].issue(workload, timedelta(hours=12)), roots, gateway))


async def test_a_killed_replica_of_orders_costs_no_call(mesh: LocalMesh) -> None:
    async with public_client(mesh) as client:
        headers = await bearer(mesh, client, "orders.read")

        async def ask() -> None:
            problem(await client.send("GET", "/v1/orders/no-such-order", headers=headers), 404)

        await many(ask, 20)
        pid = mesh.kill("orders-1", SIGKILL)
        await many(ask, 60)
        await back(mesh, "orders-1", pid)
        await many(ask, 20)


async def test_a_core_gateway_that_freezes_is_noticed_and_calls_are_refused_at_once(mesh: LocalMesh, slot: str) -> None:
    asking = json.dumps({"slot": slot}).encode()
    async with public_client(mesh) as client:
        headers = await bearer(mesh, client, "orders.read")

        async def answered() -> Answer:
            """Well within the connection's own time: whoever is refused has waited for nobody."""
            return await asyncio.wait_for(client.send("GET", "/v1/orders/no-such-order", headers=headers), 0.3)

        async def until(status: int) -> Answer:
            ends = time.monotonic() + BACK_WITHIN_S
            while time.monotonic() < ends:
                with suppress(TimeoutError, CallFailed):
                    if (answer := await answered()).status == status:
                        return answer
            raise AssertionError(f"no {status} at once")

        await until(404)
        mesh.kill("core-gateway", SIGSTOP)
        under_way = asyncio.create_task(client.send("GET", "/v1/orders/no-such-order", headers=headers))
        try:
            refusal = await until(503)
            assert refusal.headers["retry-after"] == "1"
            problem(refusal, 503)
            # Not 504: it does not wait for its deadline.
            problem(await under_way, 503)
            assert (await client.send("POST", "/v1/ads:decide", asking, JSON)).status == 200
        finally:
            mesh.kill("core-gateway", SIGCONT)
        await until(404)


async def many(call: Callable[[], Awaitable[None]], times: int) -> None:
    for _ in range(times):
        await call()
