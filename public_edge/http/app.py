"""Routes requests to the rooms and turns what they raise into problem documents (RFC 9457)."""

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from granian._granian import RSGIProtocolClosed
from granian.rsgi import Scope

from mesh import problem, telemetry
from mesh.errors import Internal, MeshError, NotFound
from mesh.logs import logger
from public_edge.http.body import HttpProtocol
from public_edge.http.origin import origin_of
from public_edge.http.refusal import MethodNotAllowed, UriTooLong, status_override
from public_edge.request import Origin

PATH_CHARS_MAX = 2048
# The longest ad request that the contract allows fits.
QUERY_CHARS_MAX = 8192

# Answers the request and returns the status that it sent.
Handler = Callable[[Scope, HttpProtocol, Origin], Awaitable[int]]


@dataclass(frozen=True, slots=True)
class Route:
    """`path` is the whole path, or with `prefix` its beginning: what follows is one segment, the handler's to read."""

    name: str
    path: str
    methods: Mapping[str, Handler]
    prefix: bool = False

    @property
    def allowed(self) -> str:
        return ", ".join(sorted(self.methods))


class EdgeApp:
    """The RSGI application of an edge node."""

    def __init__(self, routes: tuple[Route, ...]) -> None:
        self._exact = {route.path: route for route in routes if not route.prefix}
        self._prefixes = tuple(route for route in routes if route.prefix)
        self._log = logger("http")
        # Answers by route and status.
        self.answers: Counter[tuple[str, int]] = Counter()

    def __rsgi__(self, scope: Scope, proto: HttpProtocol) -> Awaitable[None]:
        return self._handle(scope, proto)

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
            if origin.traceparent.endswith("01"):
                with telemetry.span(f"HTTP {name}", origin.traceparent) as origin.traceparent:
                    status = await handler(scope, proto, origin)
            else:
                status = await handler(scope, proto, origin)
        except MeshError as error:
            status = _refuse(proto, error, scope.method)
        except RSGIProtocolClosed:
            # Whoever asked has gone.
            status = 499
        except Exception:
            self._log.exception("request failed", route=name)
            status = _refuse(proto, Internal("INTERNAL", "the service failed on this request"), scope.method)
        self.answers[name, status] += 1

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
    if status == 503:
        headers.append(("retry-after", "1"))
    if method == "HEAD":
        proto.response_empty(status, headers)
    else:
        proto.response_bytes(status, headers, problem.document(error, status))
    return status
