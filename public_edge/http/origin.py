"""Reads a request's origin from HTTP headers."""

import random

from granian.rsgi import Scope

from mesh.telemetry import valid_traceparent
from public_edge.crawlers import bot_of
from public_edge.request import Origin


def new_request_id() -> str:
    """For a request that came without one, so not through a gateway. Unique, not secret."""
    return f"{random.getrandbits(128):032x}"


def origin_of(scope: Scope) -> Origin:
    get = scope.headers.get
    traceparent = get("traceparent")
    return Origin(
        get("x-request-id") or new_request_id(),
        bot_of(get("user-agent")),
        valid_traceparent(traceparent) if traceparent else "",
    )
