"""GET, HEAD and POST /v1/ads:decide"""

from typing import Annotated, Final

import msgspec
from granian.rsgi import Scope
from msgspec import Meta

from public_edge.ads.decision import Decider, Decision
from public_edge.http import query
from public_edge.http.app import Route
from public_edge.http.body import HttpProtocol, invalid, read_json
from public_edge.request import Origin

_HEADERS = [("content-type", "application/json"), ("cache-control", "no-store")]
_FEATURE: Final = "features."


class DecideBody(msgspec.Struct, forbid_unknown_fields=True):
    """The limits of isthmus.ads.v1.DecideRequest. A test holds the two against each other."""

    slot: Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[a-z0-9-]+\Z")]
    features: Annotated[
        dict[Annotated[str, Meta(min_length=1, max_length=64)], Annotated[str, Meta(max_length=128)]],
        Meta(max_length=16),
    ] = {}
    viewer: Annotated[str, Meta(max_length=128)] = ""
    source_time_us: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0


def _asked(text: str) -> DecideBody:
    """The fields from a query, a feature as `features.name=value`. Raises InvalidArgument."""
    fields: dict[str, object] = {}
    features: dict[str, str] = {}
    for name, value in query.pairs(text):
        if name.startswith(_FEATURE):
            feature = name[len(_FEATURE) :]
            given = feature in features
            features[feature] = value
        else:
            given = name in fields
            fields[name] = value
        if given:
            raise query.invalid("query", "a parameter is given twice")
    if "features" in fields:
        raise query.invalid("features", "written features.name=value")
    fields["features"] = features
    try:
        # Not strict: in a query a number is text.
        return msgspec.convert(fields, DecideBody, strict=False)
    except msgspec.ValidationError as error:
        raise invalid(error, "query") from None


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
        if decision.creative is None:
            body = b'{"impression_id":"","click_url":""}'
        else:
            body = b'{"impression_id":"%b","creative":%b,"click_url":"%b"}' % (
                decision.impression_id.encode(),
                decision.rendered,
                decision.click_url.encode(),
            )
        proto.response_bytes(200, _HEADERS, body)
        return 200

    return Route(
        "ads.decide",
        "/v1/ads:decide",
        {"GET": get, "HEAD": head, "POST": post},
        at_once={} if decider.waits else {"GET": at_once},
    )
