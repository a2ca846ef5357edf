"""What the contract asks of a token is asked before the handler runs, and nowhere else."""

import dataclasses
from typing import Any, ClassVar, cast

import pytest

from mesh.call import Call, Claims
from mesh.clock import SystemClock
from mesh.contract import MethodPolicy, load
from mesh.errors import PermissionDenied, Unauthenticated
from mesh.spiffe import SpiffeId
from security.tokens.admission import STEP_UP_AGE_S, STEP_UP_CONTEXT
from security.tokens.rule import TokenRule
from security.tokens.verifier import TokenVerifier

CONTRACT = load()
PATH = "/isthmus.orders.v1.Orders/PlaceOrder"


GATEWAY = SpiffeId("private", "core-gateway")


class OneToken:
    """Knows the token `good` only, and may remember that it has seen it."""

    remembers: ClassVar[bool] = False

    def __init__(self, subject: str = "storefront", scopes: frozenset[str] = frozenset({"orders.write"})) -> None:
        self.claims = Claims(subject, "storefront", scopes, 2**31, "j1", actors=(str(GATEWAY),))

    async def verify(self, token: str) -> Claims:
        if token != "good":
            raise Unauthenticated("TOKEN_MALFORMED", "the access token is not a JWT")
        return self.claims

    def recall(self, token: str) -> Claims | None:
        return self.claims if self.remembers and token == "good" else None


@pytest.fixture(params=["seen for the first time", "seen before"], autouse=True)
def memory(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule asks the same of both."""
    monkeypatch.setattr(OneToken, "remembers", request.param == "seen before")


async def serve(
    policy: MethodPolicy, verifier: OneToken, authorization: str, peer: SpiffeId = GATEWAY
) -> Claims | None:
    """Ask the rule about a call of `policy`'s method; returns the claims that a handler would find then."""
    check = TokenRule(cast(TokenVerifier, verifier), SystemClock()).check(policy)
    call = Call(method=policy, peer=peer, deadline=0.0, authorization=authorization, presenter=peer)
    waits = None if check is None else check(call, None)
    if waits is not None:
        await waits
    return call.claims


def policy(**changes: Any) -> MethodPolicy:
    return dataclasses.replace(CONTRACT.methods[PATH], **changes)


@pytest.mark.parametrize("authorization", ["Bearer good", "bearer good", "BEARER good"])
async def test_the_handler_finds_the_claims_of_a_fitting_token(authorization: str) -> None:
    verifier = OneToken()
    assert await serve(policy(), verifier, authorization) == verifier.claims


@pytest.mark.parametrize("authorization", ["", "good", "Bearer", "Bearer ", "Basic good", "Bearergood"])
async def test_without_a_bearer_token_the_call_is_refused(authorization: str) -> None:
    with pytest.raises(Unauthenticated, match="TOKEN_MISSING"):
        await serve(policy(), OneToken(), authorization)


async def test_a_bad_token_is_refused() -> None:
    with pytest.raises(Unauthenticated, match="TOKEN_MALFORMED"):
        await serve(policy(), OneToken(), "Bearer bad")


async def test_every_scope_must_be_held_and_the_missing_one_is_named() -> None:
    both = policy(scopes=frozenset({"orders.write", "orders.audit"}))
    with pytest.raises(PermissionDenied, match=r"orders\.audit"):
        await serve(both, OneToken(), "Bearer good")


async def test_a_human_method_refuses_the_token_of_a_client() -> None:
    with pytest.raises(PermissionDenied, match="MEMBER_REQUIRED"):
        await serve(policy(human=True), OneToken(), "Bearer good")
    assert await serve(policy(human=True), OneToken(subject="member-1"), "Bearer good")


async def test_a_method_without_scopes_asks_for_no_token() -> None:
    assert await serve(policy(scopes=frozenset()), OneToken(), "") is None


async def test_a_token_is_of_no_use_to_whom_it_was_not_made_for() -> None:
    for thief in (SpiffeId("private", "catalog"), SpiffeId("public", "core-gateway")):
        with pytest.raises(Unauthenticated, match="TOKEN_PRESENTER"):
            await serve(policy(), OneToken(), "Bearer good", peer=thief)


async def test_a_step_up_method_asks_for_a_second_factor_shown_a_moment_ago() -> None:
    verifier = OneToken()
    asks = policy(step_up=True)
    now_s = SystemClock().now_us() // 1_000_000
    for context, age_s in (("", 0), (STEP_UP_CONTEXT, STEP_UP_AGE_S + 60)):
        verifier.claims = dataclasses.replace(verifier.claims, context=context, authenticated=now_s - age_s)
        with pytest.raises(Unauthenticated, match="STEP_UP_REQUIRED"):
            await serve(asks, verifier, "Bearer good")
    verifier.claims = dataclasses.replace(verifier.claims, context=STEP_UP_CONTEXT, authenticated=now_s)
    assert await serve(asks, verifier, "Bearer good") == verifier.claims
