"""Proofs of possession on PostgreSQL: each is good once, on whichever replica, and however many come at once."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from mesh.database.engine import async_engine
from mesh.database.migrate import Owner, migrate
from mesh.errors import Unavailable
from security.gateway import store as gateway_store
from security.gateway.store import BATCH_MAX, ProofStore
from tests.integration.room import own

pytestmark = pytest.mark.asyncio(loop_scope="module")
UNTIL = int(time.time()) + 600


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def replicas(postgres_url: str) -> AsyncIterator[tuple[ProofStore, ProofStore]]:
    migrate(postgres_url, [Owner.beside(gateway_store.__file__)])
    engines = [async_engine(own(postgres_url, "gateway"), f"gateway-{number}") for number in (1, 2)]
    yield ProofStore(engines[0]), ProofStore(engines[1])
    for engine in engines:
        await engine.dispose()


async def test_of_a_proof_that_comes_often_one_is_the_first(replicas: tuple[ProofStore, ProofStore]) -> None:
    digests = [secrets.token_bytes(32) for _ in range(20)]
    # In different orders, so that the replicas meet in the middle of their statements.
    shown = [(0, digest) for digest in digests] + [(1, digest) for digest in reversed(digests)]
    found = await asyncio.gather(*(replicas[at].first_use(digest, UNTIL) for at, digest in shown * 3))
    assert sum(found) == len(digests)
    assert not any(await asyncio.gather(*(replicas[at].first_use(digest, UNTIL) for at, digest in shown)))


async def test_more_proofs_than_one_statement_takes_are_all_noted(replicas: tuple[ProofStore, ProofStore]) -> None:
    digests = [secrets.token_bytes(32) for _ in range(2 * BATCH_MAX + 1)]
    assert all(await asyncio.gather(*(replicas[0].first_use(digest, UNTIL) for digest in digests)))
    assert not any(await asyncio.gather(*(replicas[1].first_use(digest, UNTIL) for digest in digests)))


async def test_a_proof_that_cannot_be_noted_is_good_for_nothing(postgres_url: str) -> None:
    away = async_engine(postgres_url.rpartition("/")[0] + "/nobody_made_this", "gateway-3")
    store = ProofStore(away)
    found = await asyncio.gather(*(store.first_use(bytes([at]) * 32, UNTIL) for at in range(3)), return_exceptions=True)
    await away.dispose()
    assert [type(each) for each in found] == [Unavailable] * 3
