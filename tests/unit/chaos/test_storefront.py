import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import stamina

from chaos.load.client import Answer, PublicClient
from chaos.load.outcomes import CallFailed, Outcome, Outcomes
from chaos.load.storefront import ATTEMPTS, Storefront
from chaos.load.token import PatientToken
from chaos.load.transactions import Purchase

PURCHASE = Purchase(line=7, customer="4", source_time_us=1, month="1997-01", pieces=2, amount_minor=2973)
PLACED = {"order": {"order_id": "o1", "state": "ORDER_STATE_PLACED"}}
HELD = {"payment": {"payment_id": "p1", "state": "PAYMENT_STATE_AUTHORIZED"}}
TAKEN = {"payment": {"payment_id": "p1", "state": "PAYMENT_STATE_CAPTURED"}}


class Gateway(PublicClient):
    """Answers what it was told to, in order, and remembers what it was asked."""

    def __init__(self, *answers: Answer | CallFailed) -> None:
        super().__init__("https://localhost", Path("none"), 1)
        self.answers = list(answers)
        self.asked: list[tuple[str, dict[str, object]]] = []

    async def send(
        self, method: str, target: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        self.asked.append((f"{method} {target}", json.loads(body or b"{}")))
        answer = self.answers.pop(0)
        if isinstance(answer, CallFailed):
            raise answer
        return answer


class Token(PatientToken):
    """Needs no proof at this gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def send(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        return await self._gateway.send(method, path, body, headers)


@pytest.fixture(autouse=True)
def _without_waiting() -> Iterator[None]:
    with stamina.set_testing(True, attempts=ATTEMPTS):
        yield


def answer(document: object, status: int = 200) -> Answer:
    return Answer(status, {}, json.dumps(document).encode())


def shop(*answers: Answer | CallFailed) -> tuple[Storefront, Gateway, Outcomes]:
    gateway, outcomes = Gateway(*answers), Outcomes()
    return Storefront(Token(gateway), outcomes, "ab12"), gateway, outcomes


async def test_a_purchase_is_an_order_a_payment_of_its_amount_and_its_capture() -> None:
    storefront, gateway, outcomes = shop(answer(PLACED), answer(HELD), answer(TAKEN))
    await storefront.buy("m1", PURCHASE)
    (order, ordered), (payment, paid), (capture, _) = gateway.asked
    assert (order, payment, capture) == ("POST /v1/orders", "POST /v1/payments", "POST /v1/payments/p1:capture")
    amount = {"minor": 2973, "currency": "USD"}
    assert ordered["lines"] == [{"sku": "cd", "quantity": 2, "amount": amount}]
    assert (paid["order_id"], paid["amount"], paid["source_time_us"]) == ("o1", amount, 1)
    assert outcomes.not_ok("order", "payment", "capture") == 0


@pytest.mark.parametrize(
    "passing",
    [answer({}, 503), answer({}, 504), CallFailed("connection lost", Outcome.UNKNOWN)],
    ids=["503", "504", "connection lost"],
)
async def test_what_may_pass_is_repeated_under_the_same_key(passing: Answer | CallFailed) -> None:
    storefront, gateway, outcomes = shop(passing, passing, answer(PLACED), answer(HELD), answer(TAKEN))
    await storefront.buy("m1", PURCHASE)
    assert gateway.asked[0] == gateway.asked[1] == gateway.asked[2]
    assert (outcomes.total("order"), outcomes.not_ok("order")) == (1, 0)


@pytest.mark.parametrize("status", [400, 401, 403, 409, 429, 500])
async def test_a_refusal_is_not_repeated_and_ends_the_purchase(status: int) -> None:
    storefront, gateway, outcomes = shop(answer({"reason": "NO"}, status))
    with pytest.raises(CallFailed, match=f"HTTP {status}"):
        await storefront.buy("m1", PURCHASE)
    assert len(gateway.asked) == 1
    assert outcomes.tally("order").counts == {Outcome.FAILED: 1}


async def test_repeating_ends() -> None:
    storefront, gateway, outcomes = shop(*[answer({}, 503)] * (ATTEMPTS + 1))
    with pytest.raises(CallFailed, match="503"):
        await storefront.buy("m1", PURCHASE)
    assert len(gateway.asked) == ATTEMPTS
    assert outcomes.not_ok("order") == 1


async def test_a_payment_in_another_state_is_a_failure() -> None:
    declined = {"payment": {"payment_id": "p1", "state": "PAYMENT_STATE_DECLINED"}}
    storefront, _, outcomes = shop(answer(PLACED), answer(declined))
    with pytest.raises(CallFailed):
        await storefront.buy("m1", PURCHASE)
    assert outcomes.not_ok("payment") == 1


async def test_no_two_purchases_and_no_two_runs_share_a_key() -> None:
    keys = set()
    for run, line in (("ab12", 1), ("ab12", 2), ("cd34", 1)):
        gateway = Gateway(answer(PLACED), answer(HELD), answer(TAKEN))
        purchase = Purchase(line, "4", 1, "1997-01", 1, 1)
        await Storefront(Token(gateway), Outcomes(), run).buy("m1", purchase)
        keys |= {str(body["idempotency_key"]) for _, body in gateway.asked}
    assert len(keys) == 9
