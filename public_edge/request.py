"""What every request brings besides its own fields, over HTTP and gRPC alike."""

import msgspec


class Origin(msgspec.Struct, gc=False):
    """request_id: the gateway's, the same when it repeats the request. traceparent: valid or empty."""

    request_id: str
    user_agent: str | None
    traceparent: str
