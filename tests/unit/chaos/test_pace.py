import asyncio

from chaos.load.outcomes import CallFailed, Outcome, Outcomes
from chaos.load.pace import LEAD, Pace


async def test_impressions_wait_for_purchases_and_go_on_when_those_are_done() -> None:
    pace = Pace(impressions=100, purchases=10)
    pace.impressions.done = 1 + int(100 * LEAD)
    waiting = asyncio.create_task(pace.hold_impressions())
    await asyncio.sleep(0)
    assert not waiting.done()
    pace.purchases.done = 10
    await asyncio.wait_for(waiting, 1)


async def test_without_purchases_nothing_is_held_back() -> None:
    pace = Pace(impressions=10, purchases=0)
    pace.impressions.done = 9
    await asyncio.wait_for(pace.hold_impressions(), 1)


async def test_a_share_is_reached_when_so_many_rows_are_done() -> None:
    pace = Pace(impressions=3, purchases=0)
    third = asyncio.create_task(pace.reached(1 / 3))
    await asyncio.sleep(0)
    assert not third.done()
    pace.impressions.done = 1
    await asyncio.wait_for(third, 1)


def test_an_unanswered_call_is_neither_well_nor_badly_answered() -> None:
    outcomes = Outcomes()
    outcomes.ok("ad", 0.01)
    outcomes.bad("ad", CallFailed("HTTP 500"))
    outcomes.bad("ad", CallFailed("no answer", Outcome.UNKNOWN))
    assert outcomes.tally("ad").counts == {Outcome.OK: 1, Outcome.FAILED: 1, Outcome.UNKNOWN: 1}
    assert (outcomes.total("ad"), outcomes.not_ok("ad")) == (3, 2)
