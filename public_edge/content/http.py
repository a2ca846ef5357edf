"""GET and HEAD /v1/content/{slug}, POST /v1/receipts"""

import re
from functools import lru_cache
from typing import Annotated, Literal

import msgspec
from granian.rsgi import Scope
from msgspec import Meta

from mesh.errors import FieldViolation, InvalidArgument
from public_edge.content.domain import Page, is_unchanged, preferred_locales
from public_edge.content.reading import Reader
from public_edge.content.receipts import Receipts
from public_edge.http import query
from public_edge.http.app import Route
from public_edge.http.body import HttpProtocol, read_json
from public_edge.request import Origin

PREFIX = "/v1/content/"
_PARAMETERS = frozenset({"locale", "source_time_us"})
_SLUG = re.compile(r"[a-z0-9-]{1,128}")
_LOCALE = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*")
_LOCALE_CHARS_MAX = 128
_RENDERED_MAX = 1024


@lru_cache(_RENDERED_MAX)
def _rendered(page: Page) -> bytes:
    item = page.item
    return msgspec.json.encode(
        {
            "slug": item.slug,
            "locale": item.locale,
            "version": str(item.version),
            "title": item.title,
            "body": item.body,
            "etag": page.etag,
        }
    )


def _headers(page: Page) -> list[tuple[str, str]]:
    return [
        ("etag", page.etag),
        ("cache-control", f"public, max-age={page.item.max_age_s}"),
        ("vary", "accept-language"),
        ("content-language", page.item.locale),
    ]


def route(reader: Reader) -> Route:
    async def get(scope: Scope, proto: HttpProtocol, origin: Origin) -> int:
        slug, locales, source_time_us = _request(scope)
        page, unchanged = await reader.read(slug, locales, scope.headers.get("if-none-match"), source_time_us, origin)
        if unchanged:
            proto.response_empty(304, _headers(page))
            return 304
        proto.response_bytes(200, [("content-type", "application/json"), *_headers(page)], _rendered(page))
        return 200

    async def head(scope: Scope, proto: HttpProtocol, origin: Origin) -> int:
        """Shows nothing to anybody, so it is no view."""
        slug, locales, _ = _request(scope)
        page, wanted = reader.find(slug, locales), scope.headers.get("if-none-match")
        status = 304 if wanted is not None and is_unchanged(wanted, page.etag) else 200
        proto.response_empty(status, [("content-type", "application/json"), *_headers(page)])
        return status

    return Route("content.get", PREFIX, {"GET": get, "HEAD": head}, prefix=True)


class ReceiptBody(msgspec.Struct, forbid_unknown_fields=True):
    """The limits of isthmus.content.v1.TellReceiptRequest. A test holds the two against each other."""

    slug: Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[a-z0-9-]+\Z")]
    delivery_id: Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")]
    step: Literal["RECEIPT_STEP_DELIVERED", "RECEIPT_STEP_OPENED", "RECEIPT_STEP_SHARED"]
    source_time_us: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0


def receipt_route(receipts: Receipts) -> Route:
    # Not strict: as JSON of protobuf, a 64-bit number may come as a string.
    decoder = msgspec.json.Decoder(ReceiptBody, strict=False)

    async def post(scope: Scope, proto: HttpProtocol, origin: Origin) -> int:
        told = await read_json(scope, proto, decoder)
        step = told.step.removeprefix("RECEIPT_STEP_")
        await receipts.tell(told.slug, told.delivery_id, step, told.source_time_us, origin)
        proto.response_bytes(200, [("content-type", "application/json"), ("cache-control", "no-store")], b"{}")
        return 200

    return Route("content.receipt", "/v1/receipts", {"POST": post})


def _request(scope: Scope) -> tuple[str, list[str], int]:
    slug = scope.path[len(PREFIX) :]
    if not _SLUG.fullmatch(slug):
        raise _invalid("slug", "1 to 128 of a-z, 0-9 and -")
    parameters = query.parse(scope.query_string, _PARAMETERS)
    source_time_us = query.time_us(parameters, "source_time_us")
    locale = parameters.get("locale", "")
    if not locale:
        return slug, preferred_locales(scope.headers.get("accept-language") or ""), source_time_us
    if not _LOCALE.fullmatch(locale) or len(locale) > _LOCALE_CHARS_MAX:
        raise _invalid("locale", "a BCP 47 tag such as zh-CN")
    return slug, [locale], source_time_us


def _invalid(field: str, rule: str) -> InvalidArgument:
    return InvalidArgument(
        "FIELDS_INVALID", "the request breaks the rules of its fields", fields=(FieldViolation(field, rule),)
    )
