"""Traces and metrics (OpenTelemetry), carried across HTTP, gRPC and Kafka by the W3C traceparent header."""

import contextlib
import functools
import re
import ssl
import threading
from collections import deque
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from types import TracebackType
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import grpc
import prometheus_client
from opentelemetry import metrics, trace
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from mesh.contract import load
from mesh.ids import random_ids
from mesh.redaction import Redaction
from mesh.settings import HEALTH_PATH, ProcessSettings
from mesh.tls import Identity, peer_of_socket

HEADER: Final = "traceparent"
# Who may read a process's metrics, and who may only ask whether it is well.
_READERS: Final = frozenset({"operator", "prometheus"})
_ASKERS: Final = frozenset({"control-public", "control-private"})
# Connections at a time. More are closed at once, so that none of those who are here is kept from an answer.
_CONNECTIONS_MAX: Final = 16
# How a traceparent ends whose trace is recorded.
SAMPLED: Final = "01"
# Neither id may be all zeros.
_TRACEPARENT: Final = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_SCOPE: Final = "isthmus"
# A trace's and a span's.
_new_id: Final = random_ids(16 + 8)
# Durations that wait to be sorted into a histogram, at most.
_TOLD_MAX: Final = 256
_BUCKETS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


def configure(settings: ProcessSettings) -> None:
    """Set the process's providers. Spans leave only when an OTLP endpoint is set."""
    resource = Resource.create(
        {
            "service.name": settings.workload,
            "service.namespace": f"isthmus.{settings.zone}",
            "service.instance.id": settings.node,
        }
    )
    if settings.otlp_endpoint:
        # They take long to load, in each of many processes, and most send no spans.
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

        from mesh.spans import RedactedExporter

        tracers = TracerProvider(resource=resource, sampler=ParentBased(TraceIdRatioBased(settings.trace_ratio)))
        exporter = RedactedExporter(OTLPSpanExporter(endpoint=settings.otlp_endpoint), Redaction(load()))
        tracers.add_span_processor(BatchSpanProcessor(exporter))
        trace.set_tracer_provider(tracers)
    metrics.set_meter_provider(MeterProvider(resource=resource, metric_readers=[PrometheusMetricReader()]))


def shutdown() -> None:
    """Send what is still buffered, for a bounded time."""
    # Providers that send nothing have neither method.
    provider: Any = trace.get_tracer_provider()
    if hasattr(provider, "force_flush"):
        provider.force_flush(2000)
        provider.shutdown()


def tracer() -> trace.Tracer:
    return trace.get_tracer(_SCOPE)


def meter() -> metrics.Meter:
    return metrics.get_meter(_SCOPE)


def new_traceparent(*, sampled: bool = False) -> str:
    """A traceparent for a request that came without one (W3C Trace Context, section 3.2)."""
    ids = _new_id()
    return f"00-{ids[:32]}-{ids[32:]}-{SAMPLED if sampled else '00'}"


def valid_traceparent(value: str | None) -> str:
    """`value` when it is a well-formed version 00 traceparent, else ""."""
    return value if value is not None and _TRACEPARENT.fullmatch(value) else ""


class span:  # noqa: N801 (read as a verb: with span(...))
    """Run the block in a span below `traceparent` and hand out the traceparent to pass on.

    Where the trace is not SAMPLED, no span is made and the given value is handed out: the identity of the trace travels
    all the same, and a hot path pays nothing.
    """

    __slots__ = ("_attributes", "_current", "_kind", "_name", "_scope", "_traceparent")

    def __init__(
        self, name: str, traceparent: str, kind: trace.SpanKind = trace.SpanKind.SERVER, **attributes: str | int
    ) -> None:
        self._name = name
        self._traceparent = traceparent
        self._kind = kind
        self._attributes = attributes
        self._scope: contextlib.AbstractContextManager[trace.Span] | None = None

    def __enter__(self) -> str:
        given = self._traceparent
        if not given.endswith(SAMPLED):
            return given
        parent = trace.SpanContext(
            trace_id=int(given[3:35], 16),
            span_id=int(given[36:52], 16),
            is_remote=True,
            trace_flags=trace.TraceFlags(trace.TraceFlags.SAMPLED),
        )
        self._scope = tracer().start_as_current_span(
            self._name,
            trace.set_span_in_context(trace.NonRecordingSpan(parent)),
            kind=self._kind,
            attributes=self._attributes,
            record_exception=False,
            set_status_on_exception=False,
        )
        self._current = self._scope.__enter__()
        own = self._current.get_span_context()
        return f"00-{own.trace_id:032x}-{own.span_id:016x}-{SAMPLED}"

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._scope is None:
            return
        if isinstance(error, Exception):
            # Its type alone: a message may hold what the policy of its fields keeps out of traces.
            self._current.set_status(trace.Status(trace.StatusCode.ERROR, type(error).__name__))
        self._scope.__exit__(kind, error, traceback)


class _Durations(Collector):
    """A histogram that sorts what it is told in batches, and before it is read.

    Code that runs once in a call finds the processor's caches cold; in a row it finds them warm.
    """

    def __init__(self) -> None:
        self._histogram = prometheus_client.Histogram(
            "rpc_server_duration_seconds",
            "Time from a call's arrival to its answer",
            ("method", "code"),
            buckets=_BUCKETS,
            registry=None,
        )
        self._told: deque[tuple[prometheus_client.Histogram, float]] = deque()

    def of(self, method: str, code: str) -> prometheus_client.Histogram:
        return self._histogram.labels(method, code)

    def tell(self, durations: prometheus_client.Histogram, seconds: float) -> None:
        """durations: what `of` gave."""
        self._told.append((durations, seconds))
        if len(self._told) >= _TOLD_MAX:
            self._sort()

    def collect(self) -> Iterable[Metric]:
        self._sort()
        return self._histogram.collect()

    def _sort(self) -> None:
        # The metrics thread may be here too: each takes what the other has not. What comes meanwhile can wait.
        with contextlib.suppress(IndexError):
            for _ in range(len(self._told)):
                durations, seconds = self._told.popleft()
                durations.observe(seconds)


@functools.cache
def _durations() -> _Durations:
    durations = _Durations()
    prometheus_client.REGISTRY.register(durations)
    return durations


def call_durations(method: str) -> Callable[[grpc.StatusCode, float], None]:
    """Takes the status and the seconds that each call of `method` took.

    Straight to Prometheus: on the path of every call, OpenTelemetry's histogram took a quarter of what all
    that stands before a handler took together.
    """
    durations = _durations()
    succeeded, tell = durations.of(method, "OK"), durations.tell

    def observe(code: grpc.StatusCode, seconds: float) -> None:
        tell(succeeded if code is grpc.StatusCode.OK else durations.of(method, code.name), seconds)

    return observe


class _Handler(WSGIRequestHandler):
    # A reader that stops reading is cut off.
    timeout = 10

    def get_environ(self) -> dict[str, Any]:
        assert isinstance(self.connection, ssl.SSLSocket)
        peer = peer_of_socket(self.connection.getpeercert())
        return {**super().get_environ(), "isthmus.peer": peer}

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Nothing: a scrape every few seconds is no news."""


class _Server(ThreadingMixIn, WSGIServer):
    """A thread for each connection: who connects and says nothing holds up nobody else."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int]) -> None:
        super().__init__(address, _Handler)
        self._free = threading.Semaphore(_CONNECTIONS_MAX)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            # Without a goodbye in TLS, which would wait for the other side.
            request.close()

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: whoever fails the handshake or hangs up is refused already, and is no failure of ours."""


class MetricsEndpoint:
    """Metrics for Prometheus, and HEALTH_PATH for the control plane, over mutual TLS.

    In threads of its own, so that a busy loop can still be seen.
    """

    def __init__(self, address: str, identity: Identity) -> None:
        host, port = address.rsplit(":", 1)
        self._server = _Server((host, int(port)))
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
        if environ["PATH_INFO"] == HEALTH_PATH and peer is not None and peer.workload in self._readers | _ASKERS:
            start_response("200 OK", [("Content-Type", "text/plain")])
            return [b"serving\n"]
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
