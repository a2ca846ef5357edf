"""A fault ends: when it is healed, when its time is over, and never twice."""

import asyncio

import pytest

from deploy.local.leases import LEASES_MAX, BadFault, Leases

DEADLINE_S = 10.0


class Undo:
    def __init__(self) -> None:
        self.times = 0
        self.done = asyncio.Event()

    async def __call__(self) -> None:
        self.times += 1
        self.done.set()


async def test_a_fault_heals_itself_when_its_time_is_over() -> None:
    leases, undo = Leases(), Undo()
    leases.begin("one", "edge-1 frozen", 0.01, undo)
    await asyncio.wait_for(undo.done.wait(), DEADLINE_S)
    assert leases.active() == []
    assert await leases.end("one") == 0
    assert undo.times == 1


async def test_healing_twice_is_healing_once() -> None:
    leases, undo = Leases(), Undo()
    leases.begin("one", "edge-1 frozen", 60, undo)
    assert [await leases.end("one"), await leases.end("one")] == [1, 0]
    assert undo.times == 1


async def test_everything_is_healed_together() -> None:
    leases, undos = Leases(), [Undo(), Undo()]
    for number, undo in enumerate(undos):
        leases.begin(str(number), "held", 60, undo)
    assert await leases.end(None) == 2
    assert [undo.times for undo in undos] == [1, 1]


@pytest.mark.parametrize("ttl_s", [0, -1, 601, "10", None, True, float("nan")])
async def test_a_time_to_live_out_of_bounds_is_refused(ttl_s: object) -> None:
    with pytest.raises(BadFault, match="ttl_s"):
        Leases().check("one", ttl_s)


@pytest.mark.parametrize("key", ["", "a" * 81, None, 1, "taken"])
async def test_a_key_that_names_no_new_lease_is_refused(key: object) -> None:
    leases = Leases()
    leases.begin("taken", "held", 60, Undo())
    with pytest.raises(BadFault, match="lease"):
        leases.check(key, 10)
    await leases.end(None)


async def test_too_many_faults_at_once_are_refused() -> None:
    leases = Leases()
    for number in range(LEASES_MAX):
        leases.begin(str(number), "held", 60, Undo())
    with pytest.raises(BadFault, match="heal some first"):
        leases.check("more", 10)
    await leases.end(None)
