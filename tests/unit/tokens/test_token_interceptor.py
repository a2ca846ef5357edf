"""What the contract asks of a token is asked before the handler runs, and nowhere else."""

import dataclasses
from typing import Any

import grpc
import pytest

from mesh import call
from mesh.call import Call, Claims
from mesh.clock import SystemClock
from mesh.contract import MethodPolicy, load
from mesh.errors import PermissionDenied, Unauthenticated
from mesh.spiffe import SpiffeId
from security.tokens.admission import STEP_UP_AGE_S, STEP_UP_CONTEXT
from security.tokens.interceptor import TokenInterceptor

CONTRACT = load()
PATH = "/isthmus.orders.v1.Orders/PlaceOrder"


GATEWAY = SpiffeId("private", "core-gateway")


class OneToken:
    """Knows the token `good` only."""

    def __init__(self, subject: str = "storefront", scopes: frozenset[str] = frozenset({"orders.write"})) -> None:
        self.claims = Claims(subject, "storefront", scopes, 2**31, "j1", actors=(str(GATEWAY),))

    async def verify(self, token: str) -> Claims:
        if token != "good":
            raise Unauthenticated("TOKEN_MALFORMED", "the access token is not a JWT")
        return self.claims


async def serve(
    policy: MethodPolicy, verifier: OneToken, authorization: str, peer: SpiffeId = GATEWAY
) -> Claims | None:
    """Call a method behind the interceptor; returns the claims its handler finds."""

    async def handler(request: Any, context: Any) -> Claims | None:
        return call.current_call().claims

    async def continuation(details: grpc.HandlerCallDetails) -> Any:
        return grpc.unary_unary_rpc_method_handler(handler)

    contract = dataclasses.replace(CONTRACT, methods={policy.path: policy})
    details = type("Details", (), {"method": policy.path, "invocation_metadata": ()})()
    wrapped: Any = await TokenInterceptor(verifier, contract, SystemClock()).intercept_service(  # type: ignore[arg-type]
        continuation, details
    )
    call.begin(Call(method=policy, peer=peer, deadline=0.0, authorization=authorization, presenter=peer))
    found: Claims | None = await wrapped.unary_unary(None, None)
    return found


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
