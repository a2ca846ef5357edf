"""What every request brings besides its own fields, over HTTP and gRPC alike."""

import msgspec

from public_edge.crawlers import Bot


class Origin(msgspec.Struct, gc=False):
    """request_id: the gateway's, the same when it repeats the request. traceparent: valid or empty."""

    request_id: str
    # The class of a known bot that asks.
    bot: Bot | None
    traceparent: str
