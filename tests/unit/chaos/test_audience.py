import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from chaos.load.audience import Ad, Audience, Creative
from chaos.load.client import Answer, PublicClient
from chaos.load.impressions import ImpressionRow
from chaos.load.outcomes import CallFailed, Outcome, Outcomes
from chaos.load.pace import Pace

URL = "https://localhost:1"
LANDING = "https://storefront.example/items/men-1"
CREATIVE = {"campaign_id": "men-1", "creative_id": "men-1-1", "title": "Item 1", "image_url": "https://x.example/1"}
DECISION = {"impression_id": "a" * 32, "creative": CREATIVE, "click_url": f"{URL}/v1/clicks/t"}
AD = Ad("a" * 32, Creative("men-1", "Item 1"), f"{URL}/v1/clicks/t")


class Gateway(PublicClient):
    """Answers by what a path begins with, and remembers what it was asked."""

    def __init__(self, **answers: Answer | CallFailed) -> None:
        super().__init__(URL, Path("none"), 1)
        self.answers = answers
        self.asked: list[tuple[str, Mapping[str, str] | None]] = []

    async def send(
        self, method: str, target: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        self.asked.append((target, headers))
        answer = self.answers[target.removeprefix(URL).removeprefix("/v1/").partition("/")[0].partition(":")[0]]
        if isinstance(answer, CallFailed):
            raise answer
        return answer


def row(clicked: bool = False) -> ImpressionRow:
    return ImpressionRow(5, "men", 1, "position-1", clicked, {"user_feature_0": "u"})


def answer(status: int, document: object = None, **headers: str) -> Answer:
    return Answer(status, headers, json.dumps(document).encode())


GOOD = {
    "ads": answer(200, DECISION),
    "clicks": answer(302, location=LANDING),
    "content": answer(200, {}, etag='"1"'),
}


async def play(rows: list[ImpressionRow], gateway: Gateway) -> Outcomes:
    outcomes, pace = Outcomes(), Pace(len(rows), 0)
    await Audience(gateway, outcomes, {"men-1": LANDING}).play(rows, pace, 2)
    assert pace.impressions.done == len(rows)
    return outcomes


async def test_each_row_is_an_ad_each_clicked_one_a_click_each_tenth_a_page() -> None:
    outcomes = await play([row(clicked=n in (3, 4)) for n in range(25)], Gateway(**GOOD))
    assert {kind: tally.total for kind, tally in outcomes.kinds.items()} == {"ad": 25, "click": 2, "page": 2}
    assert outcomes.not_ok("ad", "click", "page") == 0


async def test_a_known_page_is_asked_for_by_its_etag() -> None:
    gateway = Gateway(**GOOD)
    await play([row() for _ in range(20)], gateway)
    conditions = [headers for target, headers in gateway.asked if "/content/" in target]
    assert conditions == [None, {"if-none-match": '"1"'}]


async def test_a_failed_request_is_sent_once_and_counted() -> None:
    gateway = Gateway(ads=CallFailed("no answer", Outcome.UNKNOWN))
    outcomes = await play([row(clicked=True)], gateway)
    assert len(gateway.asked) == 1
    assert outcomes.tally("ad").counts == {Outcome.UNKNOWN: 1}


@pytest.mark.parametrize(
    "bad",
    [
        answer(503, {}),
        answer(200, {"impression_id": "", "click_url": ""}),
        answer(200, DECISION | {"click_url": "https://elsewhere.example/v1/clicks/t"}),
        answer(200, [1]),
    ],
    ids=["refused", "no ad", "a click URL that leads elsewhere", "no decision"],
)
async def test_an_ad_that_is_not_as_promised_is_a_failure(bad: Answer) -> None:
    with pytest.raises(CallFailed):
        await Audience(Gateway(ads=bad), Outcomes(), {}).ad("position-1", {}, 1)


@pytest.mark.parametrize(
    "bad",
    [answer(200), answer(302, location="https://elsewhere.example/"), answer(302), answer(403, {})],
    ids=["no redirect", "another landing page", "no landing page", "refused"],
)
async def test_a_click_that_does_not_lead_to_its_campaigns_page_is_a_failure(bad: Answer) -> None:
    with pytest.raises(CallFailed):
        await Audience(Gateway(clicks=bad), Outcomes(), {"men-1": LANDING}).click(AD, 1)


@pytest.mark.parametrize("bad", [answer(200, {}), answer(304, etag='"1"'), answer(404, {})])
async def test_a_page_without_etag_or_unasked_for_304_is_a_failure(bad: Answer) -> None:
    with pytest.raises(CallFailed):
        await Audience(Gateway(content=bad), Outcomes(), {}).page("men-position-1", "en", 1)
