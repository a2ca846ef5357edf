"""Between the mesh's types and the domains': callers, amounts, refusals. The one place where refusals become errors."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from isthmus.money.v1 import money_pb2

from mesh.call import current_call
from mesh.errors import (
    Aborted,
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    MeshError,
    NotFound,
    PermissionDenied,
)
from private_core import refusals
from private_core.callers import Caller
from private_core.money import Money

_KINDS: Final[dict[type[refusals.Refusal], type[MeshError]]] = {
    refusals.Malformed: InvalidArgument,
    refusals.Absent: NotFound,
    refusals.Forbidden: PermissionDenied,
    refusals.WrongState: FailedPrecondition,
    refusals.Duplicate: AlreadyExists,
    refusals.Busy: Aborted,
}


def error_of(refusal: refusals.Refusal) -> MeshError:
    return _KINDS[type(refusal)](refusal.reason, refusal.message, remedy=refusal.remedy)


@contextmanager
def translated() -> Iterator[None]:
    """Raise the refusals of the block as errors of the mesh."""
    try:
        yield
    except refusals.Refusal as refusal:
        raise error_of(refusal) from refusal


def current_caller() -> Caller:
    """Who calls, from the verified token. Raises PermissionDenied where there is none: no token, no data."""
    claims = current_call().claims
    if claims is None:
        raise PermissionDenied("TOKEN_REQUIRED", "this call needs an access token", remedy="get a token and call again")
    return Caller(claims.subject, claims.is_member)


def money_of(message: money_pb2.Money) -> Money:
    return Money(message.minor, message.currency)


def money_message(money: Money) -> money_pb2.Money:
    return money_pb2.Money(minor=money.minor, currency=money.currency)
