"""The scopes of the contract, enforced in every called service: who holds no fitting token is not served."""

from collections.abc import Awaitable
from typing import Any, Final

from mesh.admission import Check
from mesh.call import Call, Claims
from mesh.clock import Clock
from mesh.contract import MethodPolicy
from mesh.errors import Unauthenticated
from security.tokens.admission import check_subject
from security.tokens.verifier import TokenVerifier

SCHEME: Final = "bearer "


class TokenRule:
    """Checks the token of every method whose policy asks for one, and leaves its claims in the call.

    For `ServerBuilder(process, tokens=...)`.
    """

    def __init__(self, verifier: TokenVerifier, clock: Clock) -> None:
        """verifier: of inner tokens for this workload."""
        self._verifier = verifier
        self._clock = clock

    def check(self, method: MethodPolicy) -> Check | None:
        if not method.needs_token:
            return None
        recall, verify, clock = self._verifier.recall, self._verifier.verify, self._clock

        def admit(call: Call, claims: Claims) -> None:
            # Set before anything is refused: the audit record says whose good token lacked what.
            call.claims = claims
            presenter = call.presenter
            # Who presents it is proven by a certificate; the token says who may. Stolen, it is of no use to others.
            if presenter is None or not claims.actors or claims.actors[0] != presenter.uri:
                raise Unauthenticated("TOKEN_PRESENTER", "the token was made for another workload to present")
            check_subject(claims, method, clock)

        async def verified(call: Call, token: str) -> None:
            admit(call, await verify(token))

        def check(call: Call, request: Any) -> Awaitable[None] | None:
            scheme, token = call.authorization[: len(SCHEME)], call.authorization[len(SCHEME) :]
            if scheme.lower() != SCHEME or not token:
                raise Unauthenticated(
                    "TOKEN_MISSING",
                    "this call needs a token",
                    remedy="Call through the gateway, with an access token as authorization: Bearer <token>.",
                )
            known = recall(token)
            if known is None:
                return verified(call, token)
            admit(call, known)
            return None

        return check
