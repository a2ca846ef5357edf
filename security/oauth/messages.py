"""Reading requests and writing answers over HTTP, strictly and without being remembered by anybody on the way."""

import math
from typing import Any

from authlib.oauth2.rfc6749 import InvalidRequestError
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from security.oauth.parameters import BODY_BYTES_MAX, TooLargeError, parse
from security.oauth.protocol import Answer

NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache"}
FORM = "application/x-www-form-urlencoded"


async def form_of(request: HttpRequest) -> dict[str, str]:
    """The parameters of a form body. InvalidRequestError for anything else."""
    if single_header(request, "content-type", "").partition(";")[0].strip().lower() != FORM:
        raise InvalidRequestError(f"The body must be {FORM}.")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY_BYTES_MAX:
            raise TooLargeError("The body is too large.")
    if not body:
        return {}
    return parse(bytes(body))


def single_header(request: HttpRequest, name: str, default: Any = None) -> Any:
    """A header that may come once."""
    values = request.headers.getlist(name)
    if len(values) > 1:
        raise InvalidRequestError(f"The header '{name}' is repeated.")
    return values[0] if values else default


def response_of(answer: Answer, headers: dict[str, str]) -> Response:
    """What Authlib wants to answer."""
    return JSONResponse(answer.body, answer.status, {**dict(answer.headers), **headers})


def unavailable(description: str) -> Response:
    """503: try again."""
    body = {"error": "temporarily_unavailable", "error_description": description}
    return JSONResponse(body, 503, {**NO_STORE, "Retry-After": "1"})


def slow_down(wait_s: float) -> Response:
    """429: not before that."""
    body = {"error": "temporarily_unavailable", "error_description": "too many requests or failures: slow down"}
    return JSONResponse(body, 429, {**NO_STORE, "Retry-After": str(math.ceil(wait_s))})


async def http_error(request: HttpRequest, error: Exception) -> Response:
    """Unknown paths and wrong methods, in the form of all other errors here."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    headers = dict(getattr(error, "headers", None) or {})
    description = {404: "There is nothing here.", 405: "This endpoint has other methods."}.get(status, "")
    return JSONResponse({"error": "invalid_request", "error_description": description}, status, {**headers, **NO_STORE})
