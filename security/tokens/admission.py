"""What a method's policy asks of who calls it: scopes, a member, a fresh second factor. One place for all who check."""

from typing import Final

from mesh.call import Claims
from mesh.clock import Clock
from mesh.contract import MethodPolicy
from mesh.errors import PermissionDenied, Unauthenticated

# How fresh a second factor must be for a method that asks for one.
STEP_UP_AGE_S: Final = 300
# The authentication context that a second factor brings (RFC 9470, section 4).
STEP_UP_CONTEXT: Final = "urn:isthmus:acr:two-factor"


def check_subject(claims: Claims, policy: MethodPolicy, clock: Clock) -> None:
    """PermissionDenied or Unauthenticated for the first thing that is missing."""
    missing = policy.scopes - claims.scopes
    if missing:
        raise PermissionDenied(
            "SCOPE_MISSING",
            f"the access token lacks the scope {' '.join(sorted(missing))}",
            metadata={"scope": " ".join(sorted(policy.scopes))},
        )
    if policy.human and not claims.is_member:
        raise PermissionDenied("MEMBER_REQUIRED", "this call needs the token of a member, not of a client")
    if policy.step_up and (
        claims.context != STEP_UP_CONTEXT or clock.now_us() // 1_000_000 - claims.authenticated > STEP_UP_AGE_S
    ):
        raise Unauthenticated(
            "STEP_UP_REQUIRED",
            "this call needs a second factor shown a moment ago",
            remedy="Sign in again with the second factor.",
            metadata={"acr_values": STEP_UP_CONTEXT, "max_age": str(STEP_UP_AGE_S)},
        )
