"""GET and HEAD /v1/clicks/{token}"""

from granian.rsgi import Scope

from public_edge.clicks.following import Follower
from public_edge.http import query
from public_edge.http.app import Route
from public_edge.http.body import HttpProtocol
from public_edge.request import Origin

PREFIX = "/v1/clicks/"
_PARAMETERS = frozenset({"source_time_us"})


def route(follower: Follower) -> Route:
    async def follow(scope: Scope, proto: HttpProtocol, origin: Origin) -> int:
        # Mail programs and social networks add parameters of their own to links; a click is not lost over them.
        parameters = query.parse(scope.query_string, _PARAMETERS, others_allowed=True)
        time_us = query.time_us(parameters, "source_time_us")
        landing_url = await follower.follow(scope.path[len(PREFIX) :], time_us, origin)
        return redirect(proto, landing_url)

    async def look(scope: Scope, proto: HttpProtocol, origin: Origin) -> int:
        """What previews of links ask; nobody has clicked."""
        return redirect(proto, follower.leads_to(scope.path[len(PREFIX) :]))

    def redirect(proto: HttpProtocol, landing_url: str) -> int:
        headers = [("location", landing_url), ("cache-control", "no-store"), ("referrer-policy", "no-referrer")]
        proto.response_empty(302, headers)
        return 302

    return Route("clicks.follow", PREFIX, {"GET": follow, "HEAD": look}, prefix=True)
