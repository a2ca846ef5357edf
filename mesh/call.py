"""The call that is being served: who asks, under which policy, how long it may take."""

import time
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field

from mesh.contract.model import MethodPolicy
from mesh.errors import DeadlineExceeded
from mesh.spiffe import SpiffeId


@dataclass(frozen=True, slots=True)
class Claims:
    """What a verified access token says (RFC 9068, section 2.2)."""

    subject: str
    client_id: str
    scopes: frozenset[str]
    # Seconds since the epoch.
    expires: int
    token_id: str
    issued: int = 0
    # Names the consent that the token comes from; all its tokens end together. "" when there was none.
    session_id: str = ""
    # When the member last proved who they are, seconds since the epoch, and how (RFC 9068, section 2.2.1).
    authenticated: int = 0
    context: str = ""
    # What the token is bound to (RFC 7800), by confirmation method: jkt, x5t#S256.
    confirmation: Mapping[str, str] = field(default_factory=dict)
    # SPIFFE ids of those who act for the subject, the present one first (RFC 8693, section 4.1).
    actors: tuple[str, ...] = ()
    # The id of the token that this one was exchanged for.
    origin: str = ""

    @property
    def is_member(self) -> bool:
        """A client speaks for itself when it is its own subject (RFC 9068, section 2.2); otherwise a member speaks."""
        return self.subject != self.client_id


@dataclass(slots=True)
class Call:
    """One call, from its first byte to its answer. Admission and its rules fill it in; handlers read it."""

    method: MethodPolicy
    peer: SpiffeId | None
    # time.monotonic() at which the caller stops waiting.
    deadline: float
    traceparent: str = ""
    # As it came; forwarded to services called on behalf of the same subject, never logged.
    authorization: str = field(default="", repr=False)
    claims: Claims | None = None
    # The other end of the connection, which presents the token: `peer`, or the core gateway that let it in.
    presenter: SpiffeId | None = None

    @property
    def trace_id(self) -> str:
        return self.traceparent[3:35]

    def remaining_s(self) -> float:
        return self.deadline - time.monotonic()

    def require_time(self, least_s: float) -> None:
        """Refuse work that cannot finish before the caller has gone."""
        if self.remaining_s() < least_s:
            raise DeadlineExceeded("DEADLINE_TOO_SHORT", f"less than {least_s * 1000:.0f} ms are left of the deadline")


_current: ContextVar[Call | None] = ContextVar("isthmus_call", default=None)


def find_call() -> Call | None:
    """The call being served, or None outside of one."""
    return _current.get()


def current_call() -> Call:
    """The call being served. Raises LookupError outside of one."""
    call = _current.get()
    if call is None:
        raise LookupError("no call is being served here")
    return call


def begin(call: Call) -> None:
    """Make `call` the current one for this task."""
    _current.set(call)
