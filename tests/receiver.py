"""A collector of a test's own: takes OTLP over HTTP or gRPC and keeps the spans it was sent."""

import threading
from collections.abc import Generator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span


@dataclass
class Collector:
    """What arrived: each span with the attributes of its resource.

    Set `status` to refuse requests; clear `open` to hold them back.
    """

    url: str
    spans: list[tuple[dict[str, Any], Span]] = field(default_factory=list[Any])
    paths: list[str] = field(default_factory=list[str])
    status: int = 200
    open: threading.Event = field(default_factory=threading.Event)

    def take(self, request: ExportTraceServiceRequest) -> None:
        for resource in request.resource_spans:
            about = plain(resource.resource.attributes)
            for scope in resource.scope_spans:
                self.spans.extend((about, span) for span in scope.spans)

    def span(self, name: str) -> tuple[dict[str, Any], Span]:
        """The one span of that name, and its resource."""
        [found] = [(about, span) for about, span in self.spans if span.name == name]
        return found


def plain(attributes: Any) -> dict[str, Any]:
    """Attributes as a dict."""
    pairs: list[KeyValue] = list(attributes)
    return {pair.key: getattr(pair.value, str(pair.value.WhichOneof("value"))) for pair in pairs}


@contextmanager
def collector(protocol: str = "http/protobuf") -> Generator[Collector]:
    """Run a collector on a free port of the loopback."""
    with _over_grpc() if protocol == "grpc" else _over_http() as found:
        yield found


@contextmanager
def _over_grpc() -> Generator[Collector]:
    class Service(trace_service_pb2_grpc.TraceServiceServicer):
        def Export(  # noqa: N802 - its name on the wire
            self, request: ExportTraceServiceRequest, context: grpc.ServicerContext
        ) -> ExportTraceServiceResponse:
            found.open.wait(10)
            if found.status != 200:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, "refused")
            found.take(request)
            return ExportTraceServiceResponse()

    server = grpc.server(futures.ThreadPoolExecutor(4))
    add: Any = trace_service_pb2_grpc.add_TraceServiceServicer_to_server  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    add(Service(), server)
    found = Collector(f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
    found.open.set()
    server.start()
    try:
        yield found
    finally:
        found.open.set()
        server.stop(0).wait()


@contextmanager
def _over_http() -> Generator[Collector]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            found.open.wait(10)
            found.paths.append(self.path)
            if found.status == 200:
                found.take(ExportTraceServiceRequest.FromString(body))
            self.send_response(found.status)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found = Collector(f"http://127.0.0.1:{server.server_address[1]}")
    found.open.set()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield found
    finally:
        found.open.set()
        server.shutdown()
        server.server_close()
        thread.join()
