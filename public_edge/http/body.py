"""Reads a request body, bounded and strict."""

from typing import Any, Protocol, TypeVar

import msgspec
from granian.rsgi import Scope

from mesh.errors import FieldViolation, InvalidArgument
from public_edge.http.refusal import BodyTooLarge, UnsupportedMediaType

BODY_BYTES_MAX = 16 << 10
T = TypeVar("T")


class HttpProtocol(Protocol):
    """What a handler may do with granian's RSGI protocol object."""

    async def __call__(self) -> bytes: ...
    def __aiter__(self) -> Any: ...
    def response_empty(self, status: int, headers: list[tuple[str, str]]) -> None: ...
    def response_bytes(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None: ...


async def read_json(scope: Scope, proto: HttpProtocol, decoder: msgspec.json.Decoder[T]) -> T:
    """Raises UnsupportedMediaType, BodyTooLarge, or InvalidArgument naming the field and never the value."""
    get = scope.headers.get
    kind = get("content-type")
    if kind != "application/json" and not _is_json(kind):
        raise UnsupportedMediaType("MEDIA_TYPE_UNSUPPORTED", "the body must be application/json in UTF-8")
    length = get("content-length")
    if length is not None and get("transfer-encoding") is None:
        if not length.isdecimal() or int(length) > BODY_BYTES_MAX:
            raise BodyTooLarge("BODY_TOO_LARGE", f"a body may have {BODY_BYTES_MAX} bytes")
        body = await proto()
    else:
        body = await _read_stream(proto)
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise invalid(error) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise InvalidArgument("BODY_MALFORMED", "the body is not valid JSON in UTF-8") from None


async def _read_stream(proto: HttpProtocol) -> bytes:
    body = b""
    async for chunk in proto:
        body += chunk
        if len(body) > BODY_BYTES_MAX:
            raise BodyTooLarge("BODY_TOO_LARGE", f"a body may have {BODY_BYTES_MAX} bytes")
    return body


def _is_json(kind: str | None) -> bool:
    if kind is None:
        return False
    media_type, _, parameters = kind.lower().partition(";")
    charset = parameters.strip()
    return media_type.strip() == "application/json" and charset in ("", "charset=utf-8", 'charset="utf-8"')


def invalid(error: msgspec.ValidationError, of: str = "body") -> InvalidArgument:
    """From msgspec's "Expected `str` of length >= 1 - at `$.slot`"; the name of an unknown field is the sender's own
    text, so it is not repeated."""
    rule, _, place = str(error).partition(" - at `")
    field = place.rstrip("`").removeprefix("$").removeprefix(".") or of
    if rule.startswith("Object contains unknown field"):
        rule = "unknown field"
    elif rule.startswith("Object missing required field"):
        field, rule = rule.partition("`")[2].rstrip("`"), "required"
    return InvalidArgument(
        "FIELDS_INVALID", f"the {of} breaks the rules of its fields", fields=(FieldViolation(field, rule),)
    )
