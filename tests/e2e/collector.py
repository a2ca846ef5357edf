"""Where the mesh's traces go while it is tested: an OTLP collector that keeps what arrives in a file."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()

    def Export(self, request: Any, context: Any) -> Any:
        with self._lock, self._path.open("ab") as file:
            file.write(request.SerializeToString())
        return trace_service_pb2.ExportTraceServiceResponse()


@contextmanager
def collecting(path: Path, port: int) -> Iterator[str]:
    """Gives the endpoint."""
    path.parent.mkdir(parents=True, exist_ok=True)
    server = grpc.server(ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Collector(path), server)  # type: ignore[no-untyped-call]
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.stop(0).wait()
