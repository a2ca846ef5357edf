"""Refusals that HTTP alone knows, with their status (RFC 9110, section 15.5)."""

from mesh.errors import InvalidArgument, MeshError, NotFound, PermissionDenied, Unimplemented


class UnsupportedMediaType(InvalidArgument):
    """415"""


class BodyTooLarge(InvalidArgument):
    """413"""


class UriTooLong(InvalidArgument):
    """414"""


class MethodNotAllowed(Unimplemented):
    """405, with the methods that are."""

    def __init__(self, allowed: str) -> None:
        super().__init__("METHOD_NOT_ALLOWED", f"this resource takes {allowed}")
        self.allowed = allowed


class LinkExpired(NotFound):
    """410"""


class LinkForged(PermissionDenied):
    """403"""


_STATUS: dict[type[MeshError], int] = {
    UnsupportedMediaType: 415,
    BodyTooLarge: 413,
    UriTooLong: 414,
    MethodNotAllowed: 405,
    LinkExpired: 410,
}


def status_override(error: MeshError) -> int | None:
    """The HTTP status where it does not follow from the gRPC code."""
    return _STATUS.get(type(error))
