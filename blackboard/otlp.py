"""Export of spans by OTLP, through the OpenTelemetry SDK; loaded only when an endpoint is set.

All boards and agents of a process that have the same endpoint share one queue and one connection.
Each agent has a tracer provider of its own over that queue, because `service.name` belongs to the
provider. The SDK's own queue drops in silence when it is full, so what goes in and what comes out
is counted here, and a span for which there is no room is refused and counted before it gets there.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from importlib import import_module
from random import Random
from typing import Final
from urllib.parse import urlsplit

from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import (
    ReadableSpan,
    Span,
    SpanProcessor,
    SynchronousMultiSpanProcessor,
    TracerProvider,
)
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import Tracer

from blackboard.errors import SettingsError
from blackboard.settings import OTLP_HTTP

logger = logging.getLogger(__name__)

GRPC: Final = "grpc"
TRACES_PATH = "/v1/traces"
QUEUE = 65_536
"""Spans that may wait: at 10,000 a second, six seconds of a collector that does not answer."""
BATCH = 2048
DELAY_MS = 1000

_EXPORTERS = {
    OTLP_HTTP: "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    GRPC: "opentelemetry.exporter.otlp.proto.grpc.trace_exporter",
}
_exports: dict[tuple[str, str], "Export"] = {}
_lock = threading.Lock()


class Export:
    """The way of this process's spans to one endpoint, shared by all who named that endpoint."""

    def __init__(
        self,
        exporter: SpanExporter,
        forget: Callable[["Export"], bool],
        count: Callable[[int], None],
    ) -> None:
        self._queue = _Queue(exporter, count)
        self._all = SynchronousMultiSpanProcessor()
        self._all.add_span_processor(self._queue)
        self._providers: dict[tuple[str, str], TracerProvider] = {}
        self._forget = forget
        self.users = 0

    @property
    def dropped(self) -> int:
        """Spans that were lost: no room, or refused by the endpoint."""
        return self._queue.dropped

    def tracer(self, agent: str, instance: str, ids: Random) -> Tracer:
        """The tracer of one agent; whoever starts a span with it has decided to record it."""
        provider = self._providers.get((agent, instance))
        if provider is None:
            provider = self._providers[agent, instance] = TracerProvider(
                sampler=ALWAYS_ON,
                resource=Resource.create({"service.name": agent, "service.instance.id": instance}),
                shutdown_on_exit=False,
                active_span_processor=self._all,
                id_generator=_Ids(ids),
            )
        return provider.get_tracer("blackboard")

    def close(self, timeout_s: float) -> int:
        """Leave; the last user has what waits sent and the exporter closed.

        Returns:
            How many spans were lost since the start.
        """
        if self._forget(self):
            self._queue.close(timeout_s)
            if self._queue.dropped:
                logger.warning("export.lost", extra={"spans": self._queue.dropped})
        return self._queue.dropped


def open_export(endpoint: str, protocol: str, count: Callable[[int], None]) -> Export:
    """Begin to use an endpoint; pair it with `Export.close`.

    Args:
        endpoint: A URL; for HTTP, one without a path stands for its `/v1/traces`.
        protocol: `http/protobuf` or `grpc`.
        count: Told how many spans were lost, each time; not told by whom, for the way is shared.

    Raises:
        SettingsError: The endpoint or protocol cannot be used, or the exporter is not installed.
    """
    key = endpoint, protocol
    with _lock:
        found = _exports.get(key)
        if found is None:
            found = _exports[key] = Export(_exporter(endpoint, protocol), _forget, count)
        found.users += 1
        return found


def _forget(export: Export) -> bool:
    """Whether that was the last user; then nobody finds the export any more."""
    with _lock:
        export.users -= 1
        if export.users > 0:
            return False
        for key, found in list(_exports.items()):
            if found is export:
                del _exports[key]
        return True


def _exporter(endpoint: str, protocol: str) -> SpanExporter:
    module = _EXPORTERS.get(protocol)
    if module is None:
        raise SettingsError(
            f"OTEL_EXPORTER_OTLP_PROTOCOL={protocol!r} is not supported; use {OTLP_HTTP} or {GRPC}"
        )
    url = urlsplit(endpoint)
    if url.scheme not in ("http", "https") or not url.netloc:
        raise SettingsError(
            f"OTEL_EXPORTER_OTLP_ENDPOINT={endpoint!r} is no URL; write it like "
            "http://collector:4318 (HTTP) or http://collector:4317 (gRPC)"
        )
    try:
        make = import_module(module).OTLPSpanExporter
    except ImportError as error:
        raise SettingsError(
            "OTEL_EXPORTER_OTLP_ENDPOINT is set, but the exporter is not installed; run "
            "pip install 'blackboard-agents[otlp]', or unset the variable"
        ) from error
    if protocol == OTLP_HTTP and url.path in ("", "/"):
        endpoint = url._replace(path=TRACES_PATH).geturl()
    return make(endpoint=endpoint)


class _Queue(SpanProcessor):
    """The SDK's queue and its thread, with a count of what is lost."""

    def __init__(self, exporter: SpanExporter, count: Callable[[int], None]) -> None:
        self.dropped = 0
        self._count = count
        self._taken = _Taken(exporter, self._lost)
        self._inner = BatchSpanProcessor(
            self._taken,
            max_queue_size=QUEUE,
            max_export_batch_size=BATCH,
            schedule_delay_millis=DELAY_MS,
        )
        self._given = 0
        self._counting = threading.Lock()

    def on_end(self, span: ReadableSpan) -> None:
        """Queue the span, or refuse and count it."""
        with self._counting:
            # At least as many as the inner queue holds, so that one never overflows.
            full = self._given - self._taken.count >= QUEUE
            self._given += not full
        if full:
            self._lost(1)
        else:
            self._inner.on_end(span)

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Nothing is done with a span that only began."""

    def close(self, timeout_s: float) -> None:
        """Send what waits and end the thread; what does not go out in time is lost."""
        # In a thread of its own, because the SDK's shutdown takes up to 30 s.
        closing = threading.Thread(target=self._inner.shutdown, daemon=True)
        closing.start()
        closing.join(timeout_s)
        if closing.is_alive():
            self._taken.shutdown()
            self._lost(self._given - self._taken.count)

    def _lost(self, n: int) -> None:
        if n <= 0:
            return
        with self._counting:
            first = not self.dropped
            self.dropped += n
        if first:
            logger.warning("export.drops")
        self._count(n)


class _Taken(SpanExporter):
    """Counts what the queue hands over, and what the endpoint does not take."""

    def __init__(self, inner: SpanExporter, lost: Callable[[int], None]) -> None:
        self.count = 0
        self._inner = inner
        self._lost = lost
        self._closed = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        if self._closed:  # counted as lost already
            return SpanExportResult.FAILURE
        self.count += len(spans)
        result = self._inner.export(spans)
        if result is not SpanExportResult.SUCCESS:
            self._lost(len(spans))
        return result

    def shutdown(self) -> None:
        if not self._closed:
            self._closed = True
            self._inner.shutdown()


class _Ids(IdGenerator):
    """Ids from the generator that is given, which no program seeds."""

    def __init__(self, ids: Random) -> None:
        self._ids = ids

    def generate_span_id(self) -> int:
        return self._ids.getrandbits(64) or 1

    def generate_trace_id(self) -> int:
        return self._ids.getrandbits(128) or 1
