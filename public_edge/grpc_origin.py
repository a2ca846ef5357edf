"""Reads a request's origin from gRPC metadata."""

from typing import Any

import grpc

from mesh.call import find_call
from public_edge.crawlers import bot_of
from public_edge.http.origin import new_request_id
from public_edge.request import Origin


def origin_of(context: "grpc.aio.ServicerContext[Any, Any]") -> Origin:
    metadata = dict(context.invocation_metadata() or ())
    request_id, user_agent = metadata.get("x-request-id"), metadata.get("user-agent")
    call = find_call()
    return Origin(
        request_id if isinstance(request_id, str) and request_id else new_request_id(),
        bot_of(user_agent) if isinstance(user_agent, str) else None,
        call.traceparent if call is not None else "",
    )
