"""Bots at the edge of a running mesh: those of a class are slowed down, and people do not notice."""

import asyncio

import pytest

from deploy.local.mesh import LocalMesh
from tests.e2e.public import problem, public_client

pytestmark = pytest.mark.asyncio(loop_scope="session")
HARVESTER = {"user-agent": "Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible; GPTBot/1.2)"}
AT_ONCE = 64
ROUNDS_MAX = 200


async def test_a_class_of_bots_is_slowed_down_and_people_are_not(mesh: LocalMesh, slot: str) -> None:
    path = f"/v1/ads:decide?slot={slot}"
    async with public_client(mesh, connections=AT_ONCE) as client:
        for _ in range(ROUNDS_MAX):
            answers = await asyncio.gather(*(client.send("GET", path, headers=HARVESTER) for _ in range(AT_ONCE)))
            if refused := [answer for answer in answers if answer.status != 200]:
                break
        assert problem(refused[0], 429)["reason"] == "RATE_EXCEEDED"
        assert refused[0].headers["retry-after"] == "1"
        people = await asyncio.gather(*(client.send("GET", path) for _ in range(AT_ONCE)))
        assert {answer.status for answer in people} == {200}
