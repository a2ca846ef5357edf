"""The mesh for a Python program outside of it: the generated stubs, over HTTPS, with token and deadline looked after.

    async with Isthmus("https://shop.example", token, root_certificate=Path("root.pem")) as mesh:
        orders = OrdersStub(mesh.channel)
        placed = await orders.PlaceOrder(PlaceOrderRequest(...))

A stub asks a channel for its methods; this one sends each as the HTTP binding of the contract says. What the server
refuses is raised as a type of mesh.errors, with its reason and remedy.
"""

import asyncio
import re
import ssl
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, cast
from urllib.parse import quote

import aiohttp
import grpc
import msgspec
import stamina
from google.protobuf import descriptor_pool, json_format, message_factory
from google.protobuf.message import Message

from mesh.client.token import Token
from mesh.contract import Contract, HttpRule, MethodPolicy, load
from mesh.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    FieldViolation,
    Internal,
    InvalidArgument,
    MeshError,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)

CONNECTIONS_MAX: Final = 16
# A call is sent again with a new token, and with a new nonce before and after that.
SENT_MAX: Final = 4
BACKOFF_S: Final = 0.1
BACKOFF_S_MAX: Final = 1.0
# Another try may do better: 429, 503 and 504.
_REPEATED: Final = (ResourceExhausted, Unavailable, DeadlineExceeded)
_VARIABLE: Final = re.compile(r"\{([a-z0-9_.]+)(?:=\*)?\}")
# Where several codes share a status, the one that says least.
_ERRORS: Final[Mapping[int, type[MeshError]]] = {
    400: InvalidArgument,
    401: Unauthenticated,
    403: PermissionDenied,
    404: NotFound,
    409: FailedPrecondition,
    429: ResourceExhausted,
    501: Unimplemented,
    503: Unavailable,
    504: DeadlineExceeded,
}


class _Violation(msgspec.Struct):
    field: str = ""
    rule: str = ""


class _Problem(msgspec.Struct):
    """RFC 9457, as the gateways answer."""

    reason: str = "FAILED"
    detail: str = ""
    remedy: str = ""
    errors: list[_Violation] = []


class Isthmus:
    """Asynchronous context manager. token: without one, methods that ask for none can be called.

    root_certificate: of the authority that signs the mesh's own; the system's if none is given. certificate: a PEM file
    with this program's certificate and key, where the mesh asks for one or binds tokens to it (RFC 8705).
    """

    def __init__(
        self,
        url: str,
        token: Token | None = None,
        *,
        root_certificate: Path | None = None,
        certificate: Path | None = None,
        contract: Contract | None = None,
    ) -> None:
        self._url = url.rstrip("/")
        self._token = token
        self._root_certificate = root_certificate
        self._certificate = certificate
        self._contract = contract or load()
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        context = ssl.create_default_context(cafile=str(self._root_certificate) if self._root_certificate else None)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        if self._certificate is not None:
            context.load_cert_chain(self._certificate)
        connector = aiohttp.TCPConnector(ssl=context, limit=CONNECTIONS_MAX)
        self._session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    @property
    def channel(self) -> grpc.aio.Channel:
        """For generated stubs. Their methods take a `timeout`, which the contract's deadline bounds."""
        return cast(grpc.aio.Channel, _Channel(self))

    async def call(self, method: MethodPolicy, request: Message, timeout_s: float | None = None) -> Message:
        """Call a method once, or as often as the contract allows while nobody answers. Raises mesh.errors types."""
        if not method.http:
            raise Unimplemented("NO_BINDING", f"{method.full_name} has no HTTP binding: it is not for the outside")
        verb, path, body = bound(method.http[0], request)
        limit_s = min(timeout_s or method.deadline_s, method.deadline_s)
        ends = time.monotonic() + limit_s
        attempts = max(method.retry_attempts, 1) if method.idempotent else 1
        async for attempt in stamina.retry_context(
            on=_REPEATED,
            attempts=attempts,
            timeout=limit_s,
            wait_initial=BACKOFF_S,
            wait_max=BACKOFF_S_MAX,
            wait_jitter=BACKOFF_S,
        ):
            with attempt:
                return await self._attempt(method, verb, path, body, ends)
        raise AssertionError("stamina neither returned nor raised")

    async def _attempt(self, method: MethodPolicy, verb: str, path: str, body: bytes | None, ends: float) -> Message:
        try:
            async with asyncio.timeout_at(asyncio.get_running_loop().time() + ends - time.monotonic()):
                status, content = await self._send(method, verb, path, body)
        except TimeoutError as error:
            raise DeadlineExceeded("DEADLINE_EXCEEDED", "no answer within the call's time") from error
        except (aiohttp.ClientError, OSError) as error:
            raise Unavailable("UNREACHABLE", f"the mesh was not reached: {type(error).__name__}") from error
        if status != 200:
            raise _failure(status, content)
        return _answer(method, content)

    async def _send(self, method: MethodPolicy, verb: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        assert self._session is not None, "the client is used as a context manager"
        headers = {} if body is None else {"content-type": "application/json"}
        token = self._token if method.scopes or method.human or method.step_up else None
        renewed = False
        for _ in range(SENT_MAX):
            text, proof = "", None
            if token is not None:
                text = await token.text(self._session, self._url)
                if token.proofs is not None:
                    proof = token.proofs.proof(verb, self._url + path.partition("?")[0], text)
                    headers |= proof.headers
                headers["authorization"] = f"{'DPoP' if proof else 'Bearer'} {text}"
            async with self._session.request(
                verb, self._url + path, data=body, headers=headers, allow_redirects=False
            ) as answer:
                status, content = answer.status, await answer.read()
            if status != 401 or token is None:
                break
            if token.proofs and proof and token.proofs.told(answer.headers, proof, text):
                continue
            if renewed:
                break
            # It may have been revoked, or its key replaced: once more with a new one.
            token.forget(text)
            renewed = True
        return status, content


class _Channel:
    def __init__(self, client: Isthmus) -> None:
        self._client = client

    def unary_unary(
        self,
        path: str,
        request_serializer: object = None,
        response_deserializer: object = None,
        _registered_method: bool | None = False,
    ) -> Callable[..., Any]:
        method = self._client._contract.methods.get(path)

        async def call(request: Message, *, timeout: float | None = None, **_: object) -> Message:
            if method is None:
                raise Unimplemented("METHOD_UNKNOWN", f"the contract has no {path}")
            return await self._client.call(method, request, timeout)

        return call


def bound(rule: HttpRule, request: Message) -> tuple[str, str, bytes | None]:
    """Verb, path with query, and body of a call, as its google.api.http binding says. Unset fields are left out."""
    fields: dict[str, Any] = json_format.MessageToDict(request, preserving_proto_field_name=True)

    def taken(found: re.Match[str]) -> str:
        value = fields.pop(found[1], "")
        if not isinstance(value, str) or not value:
            raise InvalidArgument("FIELD_MISSING", f"the path needs the field {found[1]}")
        return quote(value, safe="")

    path = _VARIABLE.sub(taken, rule.template)
    body = fields if rule.body == "*" else fields.pop(rule.body, {}) if rule.body else None
    query: list[str] = []
    if rule.body != "*":
        for name, value in fields.items():
            for each in value if isinstance(value, list) else (value,):
                if isinstance(each, dict | list):
                    raise InvalidArgument("FIELD_UNBOUND", f"the field {name} fits into no query")
                text = str(each).lower() if isinstance(each, bool) else str(each)
                query.append(f"{quote(name, safe='')}={quote(text, safe='')}")
    target = path + ("?" + "&".join(query) if query else "")
    return rule.verb, target, None if body is None else msgspec.json.encode(body)


def _answer(method: MethodPolicy, content: bytes) -> Message:
    kind = message_factory.GetMessageClass(descriptor_pool.Default().FindMessageTypeByName(method.response))
    try:
        # A newer server may say more than this program knows.
        return json_format.Parse(content, kind(), ignore_unknown_fields=True)
    except json_format.ParseError as error:
        raise Internal("ANSWER_UNREADABLE", "the answer is not what the contract says") from error


def _failure(status: int, content: bytes) -> MeshError:
    try:
        told = msgspec.json.decode(content, type=_Problem)
    except (msgspec.DecodeError, msgspec.ValidationError):
        told = _Problem(detail=f"the mesh answers {status}")
    kind = _ERRORS.get(status, Internal)
    violations = tuple(FieldViolation(each.field, each.rule) for each in told.errors)
    return kind(told.reason, told.detail, remedy=told.remedy, fields=violations)
