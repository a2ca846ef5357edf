"""Routes requests to the rooms and turns what they raise into problem documents (RFC 9457)."""

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from granian._granian import RSGIProtocolClosed
from granian.rsgi import Scope

from mesh import problem, telemetry
from mesh.errors import Internal, MeshError, NotFound
from mesh.logs import logger
from public_edge.http.body import HttpProtocol
from public_edge.http.bots import BotRates
from public_edge.http.origin import origin_of
from public_edge.http.refusal import MethodNotAllowed, UriTooLong, status_override
from public_edge.request import Origin

PATH_CHARS_MAX = 2048
# The longest ad request that the contract allows fits.
QUERY_CHARS_MAX = 8192

# Answers the request and returns the status that it sent.
Handler = Callable[[Scope, HttpProtocol, Origin], Awaitable[int]]
# The same from the query string, without waiting for anything, in whichever thread it is called.
HandlerAtOnce = Callable[[str, HttpProtocol, Origin], int]


@dataclass(frozen=True, slots=True)
class Route:
    """`path` is the whole path, or with `prefix` its beginning: what follows is one segment, the handler's to read.

    at_once: by method, the handlers that need no event loop; `methods` has another for each.
    """

    name: str
    path: str
    methods: Mapping[str, Handler]
    prefix: bool = False
    at_once: Mapping[str, HandlerAtOnce] = field(default_factory=dict)

    @property
    def allowed(self) -> str:
        return ", ".join(sorted(self.methods))


class EdgeApp:
    """The RSGI application of an edge node."""

    def __init__(self, routes: tuple[Route, ...], bots: BotRates) -> None:
        self._bots = bots
        self._exact = {route.path: route for route in routes if not route.prefix}
        self._at_once = {path: route for path, route in self._exact.items() if route.at_once}
        self._prefixes = tuple(route for route in routes if route.prefix)
        self._log = logger("http")
        # Answers by route and status.
        self.answers: Counter[tuple[str, int]] = Counter()

    def __rsgi__(self, scope: Scope, proto: HttpProtocol) -> Awaitable[None]:
        return self._handle(scope, proto)

    def answer_at_once(self, scope: Scope, proto: HttpProtocol) -> bool:
        """Answer in the calling thread; False when the request needs the event loop, and nothing has been done.

        Never raises.
        """
        route = self._at_once.get(scope.path)
        if route is None:
            return False
        handler, query = route.at_once.get(scope.method), scope.query_string
        if handler is None or len(query) > QUERY_CHARS_MAX:
            return False
        try:
            origin = origin_of(scope)
            if origin.bot is not None:
                self._bots.take(origin.bot)
            if origin.traceparent.endswith("01"):
                with telemetry.span(f"HTTP {route.name}", origin.traceparent) as origin.traceparent:
                    status = handler(query, proto, origin)
            else:
                status = handler(query, proto, origin)
        except Exception as error:
            status = self._failed(route.name, scope, proto, error)
        self.answers[route.name, status] += 1
        return True

    async def _handle(self, scope: Scope, proto: HttpProtocol) -> None:
        name = "none"
        try:
            if scope.proto != "http":
                raise NotFound("PATH_UNKNOWN", "there is nothing here")
            route = self._exact.get(scope.path) or self._route(scope.path)
            name = route.name
            handler = route.methods.get(scope.method)
            if handler is None:
                raise MethodNotAllowed(route.allowed)
            if len(scope.query_string) > QUERY_CHARS_MAX:
                raise UriTooLong("URI_TOO_LONG", f"a query may have {QUERY_CHARS_MAX} characters")
            origin = origin_of(scope)
            if origin.bot is not None:
                self._bots.take(origin.bot)
            if origin.traceparent.endswith("01"):
                with telemetry.span(f"HTTP {name}", origin.traceparent) as origin.traceparent:
                    status = await handler(scope, proto, origin)
            else:
                status = await handler(scope, proto, origin)
        except Exception as error:
            status = self._failed(name, scope, proto, error)
        self.answers[name, status] += 1

    def _failed(self, route: str, scope: Scope, proto: HttpProtocol, error: Exception) -> int:
        """Say so to whoever asked. Returns the status."""
        if isinstance(error, RSGIProtocolClosed):
            # Whoever asked has gone.
            return 499
        if isinstance(error, MeshError):
            return _refuse(proto, error, scope.method)
        self._log.error("request failed", route=route, exc_info=error)
        return _refuse(proto, Internal("INTERNAL", "the service failed on this request"), scope.method)

    def _route(self, path: str) -> Route:
        if len(path) > PATH_CHARS_MAX:
            raise UriTooLong("URI_TOO_LONG", f"a path may have {PATH_CHARS_MAX} characters")
        for route in self._prefixes:
            if path.startswith(route.path) and "/" not in path[len(route.path) :]:
                return route
        raise NotFound("PATH_UNKNOWN", "there is nothing here")


def _refuse(proto: Any, error: MeshError, method: str) -> int:
    status = status_override(error) or problem.status_of(error)
    headers = [("content-type", problem.CONTENT_TYPE), ("cache-control", "no-store")]
    if isinstance(error, MethodNotAllowed):
        headers.append(("allow", error.allowed))
    if status in (429, 503):
        headers.append(("retry-after", "1"))
    if method == "HEAD":
        proto.response_empty(status, headers)
    else:
        proto.response_bytes(status, headers, problem.document(error, status))
    return status
