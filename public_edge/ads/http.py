"""GET, HEAD and POST /v1/ads:decide"""

from functools import lru_cache
from typing import Annotated, Final

import msgspec
from granian.rsgi import Scope
from msgspec import Meta

from mesh.errors import InvalidArgument
from public_edge.ads.decision import Asked, Decider, Decision, Features
from public_edge.http import query
from public_edge.http.app import Route
from public_edge.http.body import HttpProtocol, read_json
from public_edge.request import Origin

_HEADERS = [("content-type", "application/json"), ("cache-control", "no-store")]
_FEATURE: Final = "features."
_FIRST_FEATURE: Final = "&" + _FEATURE
# Slots and features that many requests share are read and checked once; a feature's values are few.
SHARED_MAX = 16_384
# All features of a user together, each of at most so many characters.
COMMON_MAX = 4096
COMMON_CHARS_MAX = 512
NOTHING_SAID: Final = Features()
FEATURES_MAX = 16
VIEWER_CHARS_MAX = 128

Slot = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[a-z0-9-]+\Z")]
FeatureName = Annotated[str, Meta(min_length=1, max_length=64)]
FeatureValue = Annotated[str, Meta(max_length=128)]


class DecideBody(msgspec.Struct, forbid_unknown_fields=True):
    """The limits of isthmus.ads.v1.DecideRequest. A test holds the two against each other."""

    slot: Slot
    features: Annotated[dict[FeatureName, FeatureValue], Meta(max_length=FEATURES_MAX)] = {}
    viewer: Annotated[str, Meta(max_length=VIEWER_CHARS_MAX)] = ""
    source_time_us: Annotated[int, Meta(ge=0, le=query.TIME_US_MAX)] = 0


def _asked(text: str) -> Asked:
    """From a query, a feature as `features.name=value`. Raises InvalidArgument."""
    own, mark, common = text.partition(_FIRST_FEATURE)
    fields, values = _read(own)
    features = NOTHING_SAID
    if mark:
        more, features = (_common if len(common) <= COMMON_CHARS_MAX else _read_common)(_FEATURE + common)
        if not fields.keys().isdisjoint(more):
            raise _twice()
        fields |= more
    if values:
        if not values.keys().isdisjoint(features.values):
            raise _twice()
        features = Features.of({**values, **features.values})
    slot, viewer, time_us = _slot(fields.pop("slot", "")), fields.pop("viewer", ""), 0
    if len(features.values) > FEATURES_MAX:
        raise query.invalid("features", f"at most {FEATURES_MAX}")
    if len(viewer) > VIEWER_CHARS_MAX:
        raise query.invalid("viewer", f"at most {VIEWER_CHARS_MAX} characters")
    if fields:
        time_us = query.time_us(fields, "source_time_us")
        if len(fields) > 1 or "source_time_us" not in fields:
            raise query.invalid("query", "unknown parameter")
    return Asked(slot, features, viewer, time_us)


def _read_common(text: str) -> tuple[dict[str, str], Features]:
    """The end of a query from its first feature on. By custom it holds features alone, and many users have the same."""
    fields, values = _read(text)
    return fields, Features.of(values)


_common = lru_cache(COMMON_MAX)(_read_common)


def _read(text: str) -> tuple[dict[str, str], dict[str, str]]:
    """The fields and the features. Raises InvalidArgument."""
    fields: dict[str, str] = {}
    features: dict[str, str] = {}
    for part in query.parts(text):
        name, value = query.pair(part)
        into = fields
        # Looked for behind the decoding: percent-encoded it is the same name (RFC 3986, section 6.2.2.2).
        if name.startswith(_FEATURE):
            name, value = _feature(part)
            into = features
        if name in into:
            raise _twice()
        into[name] = value
    return fields, features


def _twice() -> InvalidArgument:
    return query.invalid("query", "a parameter is given twice")


@lru_cache(SHARED_MAX)
def _feature(part: str) -> tuple[str, str]:
    """Name and value. Raises InvalidArgument."""
    name, value = query.pair(part)
    try:
        return msgspec.convert((name[len(_FEATURE) :], value), tuple[FeatureName, FeatureValue])
    except msgspec.ValidationError as error:
        raise query.invalid("features", str(error).partition(" - at")[0]) from None


@lru_cache(SHARED_MAX)
def _slot(name: str) -> str:
    """The name. Raises InvalidArgument."""
    try:
        return msgspec.convert(name, Slot)
    except msgspec.ValidationError as error:
        raise query.invalid("slot", str(error)) from None


def route(decider: Decider) -> Route:
    # Not strict: as JSON of protobuf, a 64-bit number may come as a string.
    decoder = msgspec.json.Decoder(DecideBody, strict=False)

    def at_once(text: str, proto: HttpProtocol, origin: Origin) -> int:
        return answer(proto, decider.decide_at_once(_asked(text), origin))

    async def get(scope: Scope, proto: HttpProtocol, origin: Origin) -> int:
        return answer(proto, await decider.decide(_asked(scope.query_string), origin))

    async def head(scope: Scope, proto: HttpProtocol, origin: Origin) -> int:
        """Shows nothing to anybody, so nothing is chosen."""
        _asked(scope.query_string)
        proto.response_empty(200, _HEADERS)
        return 200

    async def post(scope: Scope, proto: HttpProtocol, origin: Origin) -> int:
        body = await read_json(scope, proto, decoder)
        asked = Asked(body.slot, Features.of(body.features), body.viewer, body.source_time_us)
        return answer(proto, await decider.decide(asked, origin))

    def answer(proto: HttpProtocol, decision: Decision) -> int:
        creative = decision.creative
        if creative is None:
            body = b'{"impression_id":"","click_url":""}'
        else:
            body = b"".join(
                (b'{"impression_id":"', decision.impression_id.encode(), creative.answer, decision.click_url, b'"}')
            )
        proto.response_bytes(200, _HEADERS, body)
        return 200

    return Route(
        "ads.decide",
        "/v1/ads:decide",
        {"GET": get, "HEAD": head, "POST": post},
        at_once={} if decider.waits else {"GET": at_once},
    )
