"""Callers draw from buckets of their own; retries keep to their budget; a service that is down is left in peace."""

import dataclasses
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from isthmus.money.v1 import money_pb2
from isthmus.payments.v1 import sandbox_pb2, sandbox_pb2_grpc

from mesh import rates
from mesh.admission import Check
from mesh.call import Call, Claims
from mesh.contract import MethodPolicy, load
from mesh.contract.model import RateClass, RateLimit
from mesh.errors import ResourceExhausted, Unavailable
from mesh.rates import Buckets
from mesh.resilience import FAILURES_MAX, OPEN_S, RESERVE, Circuit, RetryBudget
from tests.ports import free_port
from tests.stand_in import AnyToken
from tests.unit.mesh.conftest import Zone
from tests.unit.mesh.test_server import HOLD, PROVIDER, Provider, serving, stub


class Hand:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self) -> float:
        return self.at


def test_every_rate_class_of_the_contract_has_its_limits() -> None:
    assert load().rates.keys() == set(RateClass)


def test_a_burst_is_granted_and_then_the_rate() -> None:
    now = Hand()
    buckets = Buckets(RateLimit(per_second=10, burst=3), now)
    assert [buckets.take("a") for _ in range(4)] == [True, True, True, False]
    now.at = 0.1
    assert [buckets.take("a") for _ in range(2)] == [True, False]


def test_no_caller_drains_the_bucket_of_another() -> None:
    buckets = Buckets(RateLimit(per_second=1, burst=1), Hand())
    assert buckets.take("a")
    assert not buckets.take("a")
    assert buckets.take("b")


@given(st.lists(st.floats(min_value=0, max_value=2), max_size=200))
def test_never_more_than_burst_and_rate_together(pauses: list[float]) -> None:
    now = Hand()
    buckets = Buckets(RateLimit(per_second=5, burst=7), now)
    admitted = 0
    for pause in pauses:
        now.at += pause
        admitted += buckets.take("a")
    assert admitted <= 7 + 5 * now.at + 1e-6


async def test_who_calls_too_often_is_told_to_slow_down(private: Zone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "Buckets", lambda _, now: Buckets(RateLimit(per_second=1, burst=2), lambda: 0.0))
    async with serving(private.join("sandbox-provider"), Provider()) as server:
        caller = stub(private.join("payments"), server)
        for _ in range(2):
            assert (await caller.Hold(HOLD)).approved
        with pytest.raises(ResourceExhausted) as refused:
            await caller.Hold(HOLD)
    assert (refused.value.reason, refused.value.metadata["rate_class"]) == ("RATE_EXCEEDED", "MEMBER")


class Speaker(AnyToken):
    """Stands in for the check of a token: says whose it is."""

    def __init__(self) -> None:
        self.claims: Claims | None = None

    def check(self, method: MethodPolicy) -> Check:
        def check(call: Call, request: Any) -> None:
            call.claims = self.claims

        return check


async def test_members_and_clients_draw_from_buckets_of_their_own(
    private: Zone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rates, "Buckets", lambda limit, now: Buckets(limit, lambda: 0.0))
    member = private.join("sandbox-provider")
    of_member, of_system = RateLimit(per_second=1, burst=2), RateLimit(per_second=1, burst=3)
    limits = {
        each: dataclasses.replace(stated, member=of_member, system=of_system)
        for each, stated in member.contract.rates.items()
    }
    speaker = Speaker()
    limited = dataclasses.replace(member, contract=dataclasses.replace(member.contract, rates=limits))
    async with serving(limited, Provider(), speaker) as server:
        caller = stub(private.join("payments"), server)

        async def admitted(claims: Claims | None) -> int:
            """How many calls get through before one is refused."""
            speaker.claims = claims
            for count in range(10):
                try:
                    await caller.Hold(HOLD)
                except ResourceExhausted:
                    return count
            return 10

        def of(subject: str) -> Claims:
            return Claims(subject, "shop", frozenset(), expires=0, token_id="t")

        assert await admitted(of("member-1")) == of_member.burst
        assert await admitted(of("member-2")) == of_member.burst, "one member does not use up another's"
        assert await admitted(of("shop")) == of_system.burst, "members do not use up their client's"
        assert await admitted(of("member-1")) == 0, "nor the client its members'"
        assert await admitted(None) == of_system.burst, "who presents their tokens has another"


@given(st.lists(st.booleans(), max_size=400), st.integers(min_value=0, max_value=50))
def test_retries_stay_within_their_share_of_the_calls(wants: list[bool], percent: int) -> None:
    budget = RetryBudget(percent)
    spent = 0
    for wanted in wants:
        budget.earn()
        spent += wanted and budget.spend()
    assert spent <= RESERVE + len(wants) * percent / 100 + 1e-6


def test_a_circuit_opens_after_many_misses_and_closes_with_the_first_answer() -> None:
    now = Hand()
    circuit = Circuit(now)
    for _ in range(FAILURES_MAX):
        assert circuit.admits()
        circuit.missed()
    assert not circuit.admits()
    now.at += OPEN_S
    assert circuit.admits(), "one call may find out"
    assert not circuit.admits(), "and only one"
    circuit.reached()
    assert all(circuit.admits() for _ in range(5))


def test_an_answer_between_misses_keeps_the_circuit_closed() -> None:
    circuit = Circuit(Hand())
    for _ in range(FAILURES_MAX * 3):
        circuit.missed()
        circuit.reached()
    assert circuit.admits()


async def test_a_service_that_is_down_is_not_asked_for_ever(private: Zone) -> None:
    channel = private.join("payments").channels.direct(f"127.0.0.1:{free_port()}", PROVIDER)
    provider = sandbox_pb2_grpc.SandboxProviderStub(channel)
    hold = sandbox_pb2.HoldRequest(
        idempotency_key="key-0001", reference="p-1", amount=money_pb2.Money(minor=1, currency="EUR")
    )
    reasons = []
    deadline = time.monotonic() + 20
    while "CIRCUIT_OPEN" not in reasons and time.monotonic() < deadline:
        with pytest.raises(Unavailable) as failed:
            await provider.Hold(hold)
        reasons.append(failed.value.reason)
    assert reasons[-1] == "CIRCUIT_OPEN"
    assert len(reasons) <= FAILURES_MAX + 1
