"""Traces leave the process redacted by the class of the contract's fields, whoever set what."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import Status, StatusCode

from mesh.contract import load
from mesh.redaction import HIDDEN, Redaction
from mesh.spans import RedactedExporter

PHONE = "13812341234"


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps what arrives."""

    def __init__(self) -> None:
        self.spans: list[Any] = []

    def Export(self, request: Any, context: Any) -> Any:
        self.spans += request.resource_spans[0].scope_spans[0].spans
        return trace_service_pb2.ExportTraceServiceResponse()


@pytest.fixture
def arrived(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What a real exporter has sent of a span that says too much."""
    collector = Collector()
    server = grpc.server(ThreadPoolExecutor(1))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)  # type: ignore[no-untyped-call]
    # Short: the path of a Unix socket has 107 characters at most.
    address = f"unix:{tmp_path_factory.mktemp('s')}/s"
    server.add_insecure_port(address)
    server.start()
    exporter = RedactedExporter(OTLPSpanExporter(endpoint=address, insecure=True), Redaction(load()))
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with provider.get_tracer("test").start_as_current_span("lookup", attributes={"member.phone": PHONE}) as span:
        span.set_attribute("phone", PHONE)
        span.set_attribute("password", "correct horse")
        span.set_attribute("order_id", "order-1")
        span.add_event("asked", {"phone": PHONE})
        span.record_exception(ValueError(f"no such phone {PHONE}"))
        span.set_status(Status(StatusCode.ERROR, f"no such phone {PHONE}"))
    provider.shutdown()
    server.stop(0).wait()
    (found,) = collector.spans
    return found


def test_nothing_above_internal_leaves(arrived: Any) -> None:
    assert PHONE.encode() not in arrived.SerializeToString()
    assert b"correct horse" not in arrived.SerializeToString()


def test_what_may_be_shown_is_shown(arrived: Any) -> None:
    attributes = {each.key: each.value.string_value for each in arrived.attributes}
    assert attributes == {
        "member.phone": "138****1234",
        "phone": "138****1234",
        "password": HIDDEN,
        "order_id": "order-1",
    }
    asked, failed = arrived.events
    assert (asked.name, asked.attributes[0].value.string_value) == ("asked", "138****1234")
    assert {each.key: each.value.string_value for each in failed.attributes}["exception.type"] == "ValueError"
    assert arrived.status.message == HIDDEN
