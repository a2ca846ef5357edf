"""Typed errors that cross gRPC as a rich status (google.rpc.Status) and HTTP as a problem document.

Raise one where the rule is broken. It is translated once, by the server at the edge of the room; clients get the same
type back from `from_status`.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, cast

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

DOMAIN: Final = "isthmus"
# The reason of an error that no service of the mesh has explained.
RPC_FAILED: Final = "RPC_FAILED"
_DETAILS_KEY: Final = "grpc-status-details-bin"

# Takes from a text what may not be told.
Scrub = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One field that is wrong. `rule` says what would be right; the value itself is never repeated."""

    field: str
    rule: str


class MeshError(Exception):
    """A refusal or a failure with a stable reason.

    reason: UPPER_SNAKE, for programs. message: for people, safe to show to the caller. remedy: what to do.
    """

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.UNKNOWN

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        remedy: str = "",
        fields: tuple[FieldViolation, ...] = (),
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message
        self.remedy = remedy
        self.fields = fields
        self.metadata = dict(metadata or {})

    def to_status(self, scrub: Scrub = str) -> status_pb2.Status:
        """The google.rpc.Status with ErrorInfo, BadRequest and Help as details (AIP-193), each text scrubbed."""
        metadata = {name: scrub(value) for name, value in self.metadata.items()}
        info = error_details_pb2.ErrorInfo(reason=self.reason, domain=DOMAIN, metadata=metadata)
        if self.remedy:
            info.metadata["remedy"] = scrub(self.remedy)
        status = status_pb2.Status(code=self.code.value[0], message=scrub(self.message))
        status.details.append(_packed(info))
        if self.fields:
            bad = error_details_pb2.BadRequest()
            for violation in self.fields:
                bad.field_violations.add(field=violation.field, description=scrub(violation.rule))
            status.details.append(_packed(bad))
        return status

    def trailing_metadata(self, scrub: Scrub = str) -> tuple[tuple[str, bytes], ...]:
        return ((_DETAILS_KEY, self.to_status(scrub).SerializeToString()),)


class InvalidArgument(MeshError):
    code = grpc.StatusCode.INVALID_ARGUMENT


class NotFound(MeshError):
    code = grpc.StatusCode.NOT_FOUND


class AlreadyExists(MeshError):
    code = grpc.StatusCode.ALREADY_EXISTS


class FailedPrecondition(MeshError):
    code = grpc.StatusCode.FAILED_PRECONDITION


class PermissionDenied(MeshError):
    code = grpc.StatusCode.PERMISSION_DENIED


class Unauthenticated(MeshError):
    code = grpc.StatusCode.UNAUTHENTICATED


class ResourceExhausted(MeshError):
    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class Unavailable(MeshError):
    code = grpc.StatusCode.UNAVAILABLE


class Aborted(MeshError):
    code = grpc.StatusCode.ABORTED


class DeadlineExceeded(MeshError):
    code = grpc.StatusCode.DEADLINE_EXCEEDED


class Unimplemented(MeshError):
    code = grpc.StatusCode.UNIMPLEMENTED


class Internal(MeshError):
    code = grpc.StatusCode.INTERNAL


class DataLoss(MeshError):
    code = grpc.StatusCode.DATA_LOSS


_BY_CODE: Final = {error.code: error for error in MeshError.__subclasses__()}
_BY_NUMBER: Final = {code.value[0]: error for code, error in _BY_CODE.items()}


def from_status(status: status_pb2.Status) -> MeshError:
    """The error that `to_status` wrote down, as the same type."""
    return _read(_BY_NUMBER.get(status.code, Internal), status)


def from_rpc_error(error: grpc.RpcError) -> MeshError:
    """What a called service raised, as the same type here. A bare status becomes its type with reason RPC_FAILED."""
    code = error.code() or grpc.StatusCode.UNKNOWN
    kind = _BY_CODE.get(code, Internal)
    trailing = cast(Iterable[tuple[str, Any]], error.trailing_metadata() or ())
    for key, value in trailing:
        if key == _DETAILS_KEY:
            return _read(kind, status_pb2.Status.FromString(value))
    return kind(RPC_FAILED, f"the call ended with {code.name}")


def _read(kind: type[MeshError], status: status_pb2.Status) -> MeshError:
    reason, remedy, metadata, fields = RPC_FAILED, "", {}, []
    for detail in status.details:
        info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        if detail.Unpack(info):
            metadata = dict(info.metadata)
            reason, remedy = info.reason, metadata.pop("remedy", "")
        elif detail.Unpack(bad):
            fields = [FieldViolation(violation.field, violation.description) for violation in bad.field_violations]
    return kind(reason, status.message, remedy=remedy, fields=tuple(fields), metadata=metadata)


def _packed(message: error_details_pb2.ErrorInfo | error_details_pb2.BadRequest) -> any_pb2.Any:
    detail = any_pb2.Any()
    detail.Pack(message)
    return detail
