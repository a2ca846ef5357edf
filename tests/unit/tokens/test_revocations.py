"""Revocations bite by token, by family and by subject, and an old list is none."""

from collections.abc import Sequence

import pytest

from mesh.call import Claims
from mesh.errors import Unauthenticated, Unavailable
from security.tokens.revocation import STALE_S, Kind, Revocation, Revocations

GOOD = Claims("member-1", "shop-web", frozenset(), 0, "t1", issued=100, session_id="f1")
INNER = Claims("member-1", "shop-web", frozenset(), 0, "i1", issued=100, session_id="f1", origin="t1")


class Clock:
    def __init__(self) -> None:
        self.elapsed_s = 0.0

    def now_us(self) -> int:
        return 0

    def monotonic(self) -> float:
        return self.elapsed_s


class Issuer:
    def __init__(self, *listed: Revocation) -> None:
        self.listed: Sequence[Revocation] | None = listed

    async def __call__(self) -> Sequence[Revocation]:
        if self.listed is None:
            raise ConnectionError("away")
        return self.listed


async def checked(claims: Claims, *listed: Revocation) -> None:
    revocations = Revocations(Issuer(*listed), Clock())
    await revocations.refresh()
    revocations.check(claims)


@pytest.mark.parametrize("claims", [GOOD, INNER])
@pytest.mark.parametrize(
    "revocation",
    [
        Revocation(Kind.TOKEN, "t1", 200),
        Revocation(Kind.FAMILY, "f1", 200),
        Revocation(Kind.SUBJECT, "member-1", 100),
    ],
)
async def test_a_revocation_bites_the_token_and_what_it_was_exchanged_for(
    claims: Claims, revocation: Revocation
) -> None:
    with pytest.raises(Unauthenticated, match="TOKEN_REVOKED"):
        await checked(claims, revocation)


async def test_what_was_made_after_a_sign_out_is_good_and_so_is_everybody_elses() -> None:
    await checked(GOOD, Revocation(Kind.SUBJECT, "member-1", 99), Revocation(Kind.TOKEN, "t2", 200))
    await checked(GOOD, Revocation(Kind.TOKEN, "f1", 200), Revocation(Kind.FAMILY, "t1", 200))
    await checked(GOOD)


async def test_a_list_that_is_too_old_or_never_came_is_none() -> None:
    clock, issuer = Clock(), Issuer()
    revocations = Revocations(issuer, clock)
    with pytest.raises(Unavailable):
        revocations.check(GOOD)
    await revocations.refresh()
    issuer.listed = None
    clock.elapsed_s = STALE_S
    await revocations.refresh()
    revocations.check(GOOD)
    clock.elapsed_s = STALE_S + 1
    with pytest.raises(Unavailable):
        revocations.check(GOOD)
