"""The audit record of the call being served, in the transaction of what the call does: both are there, or neither.

A room that writes adds RECORDED to its statement, with `rows` as its parameter, and says `committed` when it is. The
recorder then has nothing left to write before the answer leaves. Calls that do not, and those that fail, are
recorded by it alone.
"""

from collections.abc import Callable
from contextvars import ContextVar
from typing import Final

import grpc

from security.audit.postgres import parameters, recorded
from security.audit.record import AuditRecord

# `WITH ... , recorded AS (RECORDED)`: {of} is where it hangs on, of one row when the record is wanted.
RECORDED: Final = recorded("CAST(:audit AS json)", " CROSS JOIN {of}")


class Attached:
    """make: the record of the call, once it is known how it ends."""

    __slots__ = ("_committed", "_drawn", "_make", "noted")

    def __init__(self, make: Callable[[grpc.StatusCode, str], AuditRecord]) -> None:
        self._make = make
        self._drawn: AuditRecord | None = None
        self._committed = False
        # What the room says of a call that succeeds, as a reason is said of one that fails.
        self.noted = ""

    def draw(self, code: grpc.StatusCode, reason: str) -> AuditRecord:
        self._drawn, self._committed = self._make(code, reason), False
        return self._drawn

    def commit(self) -> None:
        self._committed = True

    def says(self, code: grpc.StatusCode, reason: str) -> bool:
        """Whether a record of just this end is durable."""
        drawn = self._drawn
        return self._committed and drawn is not None and (drawn.result, drawn.reason) == (code.name, reason)


_current: ContextVar[Attached | None] = ContextVar("isthmus_attached", default=None)


def begin(make: Callable[[grpc.StatusCode, str], AuditRecord]) -> Attached:
    attached = Attached(make)
    _current.set(attached)
    return attached


def rows(code: grpc.StatusCode = grpc.StatusCode.OK, reason: str = "") -> str:
    """The parameter :audit of RECORDED: the current call's record if it ends so; none outside of a recorded call."""
    attached = _current.get()
    return parameters([attached.draw(code, reason)] if attached else [])["rows"]


def note(reason: str) -> None:
    """Say on the record what a call that succeeds was for: PURPOSE_DELIVERY."""
    attached = _current.get()
    if attached is not None:
        attached.noted = reason


def committed() -> None:
    """The transaction that held `rows` is committed."""
    attached = _current.get()
    if attached is not None:
        attached.commit()
