"""The scopes of the contract, enforced in every called service: who holds no fitting token is not served."""

from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from mesh.call import current_call
from mesh.clock import Clock
from mesh.contract import Contract, MethodPolicy
from mesh.errors import Unauthenticated, Unimplemented
from security.tokens.admission import check_subject, needs_token
from security.tokens.verifier import TokenVerifier

SCHEME = "bearer "

# grpcio's handler type takes its parameters in its stubs only, not when the program runs.
Handler = Any
Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]]


class TokenInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc,unused-ignore]
    """Checks the token of every method whose policy asks for scopes, and leaves its claims in the current call.

    Stands behind the mesh's own interceptors: they begin the call, and translate what is raised here.
    """

    def __init__(self, verifier: TokenVerifier, contract: Contract, clock: Clock) -> None:
        """verifier: of inner tokens for this workload."""
        self._verifier = verifier
        self._clock = clock
        self._methods = contract.methods

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler | None:
        handler = await continuation(handler_call_details)
        policy = self._methods.get(handler_call_details.method)
        # Methods that no contract names (health, reflection) are the mesh's own and need no token.
        if handler is None or policy is None or not needs_token(policy):
            return handler
        return _guarded(handler, lambda: self._admit(policy))

    async def _admit(self, policy: MethodPolicy) -> None:
        call = current_call()
        scheme, token = call.authorization[: len(SCHEME)], call.authorization[len(SCHEME) :]
        if scheme.lower() != SCHEME or not token:
            raise Unauthenticated(
                "TOKEN_MISSING",
                "this call needs a token",
                remedy="Call through the gateway, with an access token as authorization: Bearer <token>.",
            )
        # Set before anything is refused: the audit record says whose good token lacked what.
        call.claims = claims = await self._verifier.verify(token)
        # Who presents it is proven by a certificate; the token says who may. Stolen, it is of no use to others.
        if not claims.actors or claims.actors[0] != str(call.presenter):
            raise Unauthenticated("TOKEN_PRESENTER", "the token was made for another workload to present")
        check_subject(claims, policy, self._clock.now_us() // 1_000_000)


def _guarded(handler: Handler, admit: Callable[[], Awaitable[None]]) -> Handler:
    """The same handler behind `admit`, whose refusal is raised where the handler's own errors are."""
    serve = handler.unary_unary
    if serve is None:
        # The mesh has no streaming methods of its own; one that appears stays closed until it is guarded too.
        raise Unimplemented("STREAMING_UNSUPPORTED", "a method that needs a token answers one request at a time")

    async def guarded(request: Any, context: Any) -> Any:
        await admit()
        return await serve(request, context)

    return grpc.unary_unary_rpc_method_handler(guarded, handler.request_deserializer, handler.response_serializer)
