"""A caller repeats what the contract calls idempotent, as often as it says, and all callers keep to a budget."""

from typing import Any

import grpc
import pytest
from isthmus.payments.v1 import sandbox_pb2

from mesh.errors import DeadlineExceeded, FailedPrecondition, Internal, MeshError, Unavailable
from mesh.resilience import RESERVE
from tests.unit.mesh.conftest import Zone
from tests.unit.mesh.test_server import HOLD, Provider, serving, stating, stub

# So long that no busy machine uses it up.
AMPLE_MS = 60_000
AWAY = Unavailable("PROVIDER_AWAY", "not now")


class Failing(Provider):
    """Fails in one way, the first so many times. Counts how often it was asked."""

    def __init__(self, error: MeshError | grpc.StatusCode, times: int = 1_000) -> None:
        super().__init__()
        self.asked = 0
        self._error = error
        self._times = times

    async def Hold(self, request: Any, context: Any) -> sandbox_pb2.HoldResponse:
        self.asked += 1
        if self.asked > self._times:
            return sandbox_pb2.HoldResponse(approved=True)
        if isinstance(self._error, MeshError):
            raise self._error
        # As what is no part of the mesh fails: without a reason.
        await context.abort(self._error, "gone")
        raise AssertionError("an aborted call does not go on")


async def answers(private: Zone, provider: Failing, calls: int, **policy: object) -> list[Any]:
    """What so many calls of Hold under this policy were answered, one after another."""
    policy = {"deadline_ms": AMPLE_MS, **policy}
    found: list[Any] = []
    async with serving(stating(private.join("sandbox-provider"), **policy), provider) as server:
        caller = stub(stating(private.join("payments"), **policy), server)
        for _ in range(calls):
            try:
                found.append(await caller.Hold(HOLD))
            except MeshError as error:
                found.append(error)
    return found


@pytest.mark.parametrize(
    "error",
    [
        AWAY,
        DeadlineExceeded("DEADLINE_EXCEEDED", "too slow"),
        Internal("INTERNAL", "a bug"),
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.UNKNOWN,
    ],
    ids=str,
)
async def test_what_is_not_idempotent_is_tried_once_however_it_fails(
    private: Zone, error: MeshError | grpc.StatusCode
) -> None:
    provider = Failing(error)
    # The lint lets nobody state these two together; a caller that was given them keeps to the safe one.
    (failed,) = await answers(private, provider, 1, idempotent=False, retry_attempts=3, retry_budget_percent=100)
    assert isinstance(failed, MeshError)
    assert provider.asked == 1


@pytest.mark.parametrize("attempts", [1, 2, 5])
@pytest.mark.parametrize("error", [AWAY, grpc.StatusCode.UNAVAILABLE], ids=str)
async def test_what_is_idempotent_is_tried_as_often_as_its_policy_says(
    private: Zone, error: MeshError | grpc.StatusCode, attempts: int
) -> None:
    provider = Failing(error)
    (failed,) = await answers(private, provider, 1, idempotent=True, retry_attempts=attempts)
    assert isinstance(failed, Unavailable)
    assert provider.asked == attempts


async def test_the_attempt_that_succeeds_is_the_last(private: Zone) -> None:
    provider = Failing(AWAY, times=2)
    (answer,) = await answers(private, provider, 1, idempotent=True, retry_attempts=5)
    assert answer.approved
    assert provider.asked == 3


@pytest.mark.parametrize("error", [FailedPrecondition("WRONG_STATE", "not so"), Internal("INTERNAL", "a bug")], ids=str)
async def test_a_refusal_is_not_asked_for_again(private: Zone, error: MeshError) -> None:
    provider = Failing(error)
    (failed,) = await answers(private, provider, 1, idempotent=True, retry_attempts=3)
    assert isinstance(failed, type(error))
    assert provider.asked == 1


@pytest.mark.parametrize("percent", [0, 25])
async def test_a_server_that_always_fails_is_asked_no_more_than_the_budget_grants(private: Zone, percent: int) -> None:
    provider, calls = Failing(AWAY), 40
    failed = await answers(private, provider, calls, idempotent=True, retry_attempts=3, retry_budget_percent=percent)
    assert [type(each) for each in failed] == [Unavailable] * calls
    granted = RESERVE + calls * percent / 100
    # The reserve is full when the first calls earn, so that what these earn is lost: no more than it holds.
    assert calls + RESERVE <= provider.asked <= calls + granted
    if percent:
        assert provider.asked > calls + RESERVE, "calls earn"
