"""The scopes of the contract, enforced in every called service: who holds no fitting token is not served."""

from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from mesh.call import current_call
from mesh.contract import Contract, MethodPolicy
from mesh.errors import PermissionDenied, Unauthenticated, Unimplemented
from security.tokens.verifier import TokenVerifier

SCHEME = "bearer "

# grpcio's handler type takes its parameters in its stubs only, not when the program runs.
Handler = Any
Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]]


class TokenInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc,unused-ignore]
    """Checks the token of every method whose policy asks for scopes, and leaves its claims in the current call.

    Stands behind the mesh's own interceptors: they begin the call, and translate what is raised here.
    """

    def __init__(self, verifier: TokenVerifier, contract: Contract) -> None:
        self._verifier = verifier
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
                "this call needs an access token",
                remedy="Send it as metadata: authorization: Bearer <token>.",
            )
        # Set before anything is refused: the audit record says whose good token lacked what.
        call.claims = claims = await self._verifier.verify(token)
        missing = policy.scopes - claims.scopes
        if missing:
            raise PermissionDenied(
                "SCOPE_MISSING",
                f"the access token lacks the scope {' '.join(sorted(missing))}",
                metadata={"scope": " ".join(sorted(policy.scopes))},
            )
        if policy.human and not claims.is_member:
            raise PermissionDenied("MEMBER_REQUIRED", "this call needs the token of a member, not of a client")


def needs_token(policy: MethodPolicy) -> bool:
    """A method that asks for a scope, a member or a fresh second factor asks for a token."""
    return bool(policy.scopes) or policy.human or policy.step_up


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
