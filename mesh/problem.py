"""Problem documents (RFC 9457): how an error looks over HTTP."""

from typing import Final

import grpc
import msgspec

from mesh.errors import MeshError

CONTENT_TYPE: Final = "application/problem+json"

# google.rpc.Code to HTTP status, as the transcoding of google.api.http maps them; a refused precondition is a conflict.
HTTP_STATUS: Final = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.FAILED_PRECONDITION: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}


def status_of(error: MeshError) -> int:
    return HTTP_STATUS.get(error.code, 500)


def document(error: MeshError, status: int | None = None) -> bytes:
    """The body of an `application/problem+json` answer. `status` overrides the one that follows from the error."""
    status = status or status_of(error)
    body: dict[str, object] = {
        "type": f"urn:isthmus:problem:{error.reason.lower().replace('_', '-')}",
        "title": error.reason.replace("_", " ").capitalize(),
        "status": status,
        "detail": error.message,
        "reason": error.reason,
    }
    if error.remedy:
        body["remedy"] = error.remedy
    if error.fields:
        body["errors"] = [{"field": violation.field, "rule": violation.rule} for violation in error.fields]
    return msgspec.json.encode(body)
