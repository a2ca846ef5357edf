"""Refusals of a domain as the errors that cross gRPC: the one place where they are translated."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from mesh.errors import AlreadyExists, FailedPrecondition, InvalidArgument, MeshError, NotFound, PermissionDenied
from private_core import refusals

_KINDS: Final[dict[type[refusals.Refusal], type[MeshError]]] = {
    refusals.Malformed: InvalidArgument,
    refusals.Absent: NotFound,
    refusals.Forbidden: PermissionDenied,
    refusals.WrongState: FailedPrecondition,
    refusals.Duplicate: AlreadyExists,
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
