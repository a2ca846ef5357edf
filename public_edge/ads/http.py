"""GET, HEAD and POST /v1/ads:decide"""

from functools import lru_cache
from typing import Annotated, Final

import msgspec
from granian.rsgi import Scope
from msgspec import Meta

from public_edge.ads.decision import Decider, Decision
from public_edge.http import query
from public_edge.http.app import Route
from public_edge.http.body import HttpProtocol, read_json
from public_edge.request import Origin

_HEADERS = [("content-type", "application/json"), ("cache-control", "no-store")]
_FEATURE: Final = "features."
# Slots and features that many requests share are read and checked once; a feature's values are few.
SHARED_MAX = 16_384
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


def _asked(text: str) -> DecideBody:
    """The fields from a query, a feature as `features.name=value`. Raises InvalidArgument."""
    fields: dict[str, str] = {}
    features: dict[str, str] = {}
    for part in query.parts(text):
        if part.startswith(_FEATURE):
            name, value = _feature(part)
            into = features
        else:
            name, value = query.pair(part)
            into = fields
            if name.startswith(_FEATURE):
                # Percent-encoded it is the same name (RFC 3986, section 6.2.2.2).
                name, value = _feature(part)
                into = features
        if name in into:
            raise query.invalid("query", "a parameter is given twice")
        into[name] = value
    slot, viewer, time_us = _slot(fields.pop("slot", "")), fields.pop("viewer", ""), 0
    if len(features) > FEATURES_MAX:
        raise query.invalid("features", f"at most {FEATURES_MAX}")
    if len(viewer) > VIEWER_CHARS_MAX:
        raise query.invalid("viewer", f"at most {VIEWER_CHARS_MAX} characters")
    if fields:
        time_us = query.time_us(fields, "source_time_us")
        if len(fields) > 1 or "source_time_us" not in fields:
            raise query.invalid("query", "unknown parameter")
    return DecideBody(slot, features, viewer, time_us)


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
        asked = _asked(text)
        return answer(
            proto, decider.decide_at_once(asked.slot, asked.features, asked.viewer, asked.source_time_us, origin)
        )

    async def get(scope: Scope, proto: HttpProtocol, origin: Origin) -> int:
        return await decide(proto, _asked(scope.query_string), origin)

    async def head(scope: Scope, proto: HttpProtocol, origin: Origin) -> int:
        """Shows nothing to anybody, so nothing is chosen."""
        _asked(scope.query_string)
        proto.response_empty(200, _HEADERS)
        return 200

    async def post(scope: Scope, proto: HttpProtocol, origin: Origin) -> int:
        return await decide(proto, await read_json(scope, proto, decoder), origin)

    async def decide(proto: HttpProtocol, asked: DecideBody, origin: Origin) -> int:
        return answer(
            proto, await decider.decide(asked.slot, asked.features, asked.viewer, asked.source_time_us, origin)
        )

    def answer(proto: HttpProtocol, decision: Decision) -> int:
        creative = decision.creative
        if creative is None:
            body = b'{"impression_id":"","click_url":""}'
        else:
            body = b'{"impression_id":"%b","creative":%b,"click_url":"%b"}' % (
                decision.impression_id.encode(),
                creative.answer,
                decision.click_url,
            )
        proto.response_bytes(200, _HEADERS, body)
        return 200

    return Route(
        "ads.decide",
        "/v1/ads:decide",
        {"GET": get, "HEAD": head, "POST": post},
        at_once={} if decider.waits else {"GET": at_once},
    )
