"""Traces and metrics (OpenTelemetry), carried across HTTP, gRPC and Kafka by the W3C traceparent header."""

import contextlib
import re
import secrets
import ssl
import threading
from collections.abc import Iterator
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import prometheus_client
from opentelemetry import metrics, trace
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from mesh.settings import ProcessSettings
from mesh.tls import Identity, peer_of_socket

HEADER: Final = "traceparent"
# Who may read a process's metrics.
_READERS: Final = frozenset({"operator", "prometheus"})
_SAMPLED: Final = "01"
# Neither id may be all zeros.
_TRACEPARENT: Final = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_SCOPE: Final = "isthmus"


def configure(settings: ProcessSettings) -> None:
    """Set the process's providers. Spans leave only when an OTLP endpoint is set."""
    resource = Resource.create(
        {
            "service.name": settings.workload,
            "service.namespace": f"isthmus.{settings.zone}",
            "service.instance.id": settings.node,
        }
    )
    tracers = TracerProvider(resource=resource, sampler=ParentBased(TraceIdRatioBased(settings.trace_ratio)))
    if settings.otlp_endpoint:
        # Its generated code takes long to load, in each of many processes, and most send no spans.
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

        tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=settings.otlp_endpoint)))
    trace.set_tracer_provider(tracers)
    metrics.set_meter_provider(MeterProvider(resource=resource, metric_readers=[PrometheusMetricReader()]))


def shutdown() -> None:
    """Send what is still buffered, for a bounded time."""
    provider = trace.get_tracer_provider()
    if isinstance(provider, TracerProvider):
        provider.force_flush(2000)
        provider.shutdown()


def tracer() -> trace.Tracer:
    return trace.get_tracer(_SCOPE)


def meter() -> metrics.Meter:
    return metrics.get_meter(_SCOPE)


def new_traceparent(*, sampled: bool = False) -> str:
    """A traceparent for a request that came without one (W3C Trace Context, section 3.2)."""
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-{_SAMPLED if sampled else '00'}"


def valid_traceparent(value: str | None) -> str:
    """`value` when it is a well-formed version 00 traceparent, else ""."""
    return value if value is not None and _TRACEPARENT.fullmatch(value) else ""


@contextlib.contextmanager
def span(name: str, traceparent: str, kind: SpanKind = SpanKind.SERVER, **attributes: str | int) -> Iterator[str]:
    """Run the block in a span below `traceparent` and yield the traceparent to hand on.

    Where the trace is not sampled, no span is made and the given value is yielded: the identity of the trace travels
    all the same, and a hot path pays nothing.
    """
    if not traceparent.endswith(_SAMPLED):
        yield traceparent
        return
    parent = SpanContext(
        trace_id=int(traceparent[3:35], 16),
        span_id=int(traceparent[36:52], 16),
        is_remote=True,
        trace_flags=TraceFlags(TraceFlags.SAMPLED),
    )
    context = trace.set_span_in_context(NonRecordingSpan(parent))
    with tracer().start_as_current_span(
        name, context, kind=kind, attributes=attributes, record_exception=False
    ) as current:
        own = current.get_span_context()
        try:
            yield f"00-{own.trace_id:032x}-{own.span_id:016x}-{_SAMPLED}"
        except Exception as error:
            current.set_status(Status(StatusCode.ERROR, type(error).__name__))
            raise


class _Handler(WSGIRequestHandler):
    # A reader that stops reading is cut off.
    timeout = 10

    def get_environ(self) -> dict[str, Any]:
        assert isinstance(self.connection, ssl.SSLSocket)
        peer = peer_of_socket(self.connection.getpeercert())
        return {**super().get_environ(), "isthmus.peer": peer}

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Nothing: a scrape every few seconds is no news."""


class _Server(WSGIServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: whoever fails the handshake or hangs up is refused already, and is no failure of ours."""


class MetricsEndpoint:
    """GET /metrics for Prometheus over mutual TLS, in a thread of its own so that a busy loop can still be seen."""

    def __init__(self, address: str, identity: Identity) -> None:
        host, port = address.rsplit(":", 1)
        self._server = _Server((host, int(port)), _Handler)
        # Whoever holds the process's own certificate, its launcher, may read too.
        self._readers = _READERS | {identity.spiffe_id.workload}
        self._context = identity.ssl_context(server=True)
        # The handshake runs when the handler first reads, under its timeout.
        self._server.socket = self._context.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        self._server.set_app(self._answer)
        self._prometheus = prometheus_client.make_wsgi_app()
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        identity.on_change(lambda _: identity.renew(self._context))

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Any:
        peer = environ["isthmus.peer"]
        if peer is None or peer.workload not in self._readers:
            start_response("403 Forbidden", [("Content-Type", "text/plain")])
            return [b"metrics are read by: " + ", ".join(sorted(self._readers)).encode() + b"\n"]
        return self._prometheus(environ, start_response)

    async def start(self) -> None:
        self._thread.start()

    async def stop(self, grace_s: float) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(grace_s)
