"""What a server tells of a call that failed repeats nothing personal of the request, however an error was worded."""

from typing import Any, cast

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from isthmus.members.v1 import members_pb2 as pb

from mesh.admission import Admission, arrived
from mesh.contract import load
from mesh.errors import FailedPrecondition, FieldViolation, InvalidArgument, MeshError
from mesh.redaction import Redaction

PATH = "/isthmus.members.v1.Members/RegisterMember"
REQUEST = pb.RegisterMemberRequest(
    idempotency_key="key-0001", phone="13812345678", name="Wang Xiaoming", address="Elm 5"
)


class Context:
    """Of one call; keeps what it is ended with."""

    def __init__(self) -> None:
        self.told = ""
        self.status = status_pb2.Status()

    def time_remaining(self) -> float:
        return 30.0

    def peer_identity_key(self) -> str:
        return "x509_subject_alternative_name"

    def peer_identities(self) -> tuple[bytes, ...]:
        return (b"spiffe://isthmus.internal/private/core-gateway",)

    async def abort(self, code: grpc.StatusCode, told: str, trailing: tuple[tuple[str, bytes], ...]) -> None:
        self.told = told
        self.status = status_pb2.Status.FromString(trailing[0][1])
        raise grpc.aio.AbortError


@pytest.mark.parametrize(
    "error",
    [
        FailedPrecondition(
            "PHONE_TAKEN", "13812345678 is taken", remedy="ask 13812345678", metadata={"phone": "13812345678"}
        ),
        InvalidArgument("NAME", "bad name", fields=(FieldViolation("name", "'Wang Xiaoming' is no name at Elm 5"),)),
    ],
)
async def test_no_error_repeats_what_is_personal(error: MeshError) -> None:
    contract = load()

    async def fail(request: Any, context: Any) -> None:
        raise error

    serve = Admission((), None, 0.0, Redaction(contract)).before(contract.methods[PATH], fail)
    arrived.set(())
    context = Context()
    with pytest.raises(grpc.aio.AbortError):
        await serve(REQUEST, cast(Any, context))

    info = error_details_pb2.ErrorInfo()
    assert context.status.details[0].Unpack(info)
    assert info.reason == error.reason
    said = f"{context.told} {context.status}".encode() + context.status.SerializeToString()
    for personal in (REQUEST.phone, REQUEST.name, REQUEST.address):
        assert personal.encode() not in said
