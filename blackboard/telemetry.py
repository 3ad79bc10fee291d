"""Every span, attribute and metric name, and how a process records them.

Three things become of a finished span. Its record goes to the board's own stream, always. It is
exported when an OTLP endpoint is set or the program has installed a tracer provider. And while it
lasts it is the current span of OpenTelemetry's context, so that spans of the user's own code nest
in it and writes carry its `traceparent`.

The OpenTelemetry SDK is only loaded when something is exported: it costs 120 ms and 9 MB a process,
and a pool has thousands of them. What is recorded is the same either way.

Names are low in cardinality, and no attribute ever holds content: references, patterns, counts and
error classes only. Errors are recorded by class, without their text, which may quote content. (The
two attributes for how a span ended stand in `spans`.)
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Final, NamedTuple

from opentelemetry import metrics, trace
from opentelemetry.trace import NoOpTracer, NoOpTracerProvider, ProxyTracerProvider, Tracer

from blackboard.records import SpanRecord
from blackboard.settings import OTLP_HTTP
from blackboard.spans import Kind, Recorder, Span, Value, ids, propagator
from blackboard.subjects import Pattern, Ref, consumer_name, memory_stream

if TYPE_CHECKING:
    from blackboard.otlp import Export

# Spans. For reads and writes they are the operation names of the GenAI memory conventions, or in
# their style where these have none; such a span also carries `gen_ai.operation.name`.

CREATE_MEMORY: Final = "create_memory"
"""A put, or a put of many."""
UPSERT_MEMORY: Final = "upsert_memory"
"""A put of shared state at a key."""
UPDATE_MEMORY: Final = "update_memory"
"""A new revision: revise, update, undo, reclassify."""
DELETE_MEMORY: Final = "delete_memory"
"""A memory is taken back: retire, forget."""
SEARCH_MEMORY: Final = "search_memory"
"""Recall by meaning, or a query."""
GET_MEMORY: Final = "get_memory"
"""A read by reference."""
WAIT_MEMORY: Final = "wait_memory"
"""Waiting for the first memory that matches."""
WATCH_MEMORY: Final = "watch_memory"
"""Beginning to follow a pattern; what comes then is in the audit, delivery by delivery."""
VIEW_MEMORY: Final = "view_memory"
"""Opening a view, until it holds what there is."""
REPLAY_MEMORY: Final = "replay_memory"
"""Beginning to read a stretch of history."""
ONCE_MEMORY: Final = "once_memory"
"""A piece of work that is stored once; its children tell whether it was made here."""
ASK: Final = "ask"
"""A request, until its answer is there."""
MAKE: Final = "make"
"""The work inside `once`, when it runs here."""
COMMIT: Final = "commit"
"""A handler's outputs and its record, as one atomic batch."""
MERGE: Final = "merge"
"""The function of a `gather` handler on a complete group; linked to the spans of its parts."""
PROCESS: Final = "process"
"""A handler's run on one delivery; the span is named `process <pattern>`."""
CHAT: Final = "chat"
"""A request to a chat model."""
EMBEDDINGS: Final = "embeddings"
"""Texts turned into vectors."""

OPERATIONS: Final = frozenset(
    {CREATE_MEMORY, UPSERT_MEMORY, UPDATE_MEMORY, DELETE_MEMORY, SEARCH_MEMORY, GET_MEMORY}
    | {WATCH_MEMORY, VIEW_MEMORY, WAIT_MEMORY, REPLAY_MEMORY, ONCE_MEMORY, CHAT, EMBEDDINGS}
)
"""Spans that are operations in the sense of the GenAI conventions."""

# Attributes

OPERATION: Final = "gen_ai.operation.name"
"""One of `OPERATIONS`."""
STORE_ID: Final = "gen_ai.memory.store.id"
"""The board."""
RECORD_ID: Final = "gen_ai.memory.record.id"
"""The reference."""
RECORD_COUNT: Final = "gen_ai.memory.record.count"
"""How many memories were written or found."""
AGENT_ID: Final = "gen_ai.agent.id"
"""The agent, by the name the broker knows."""
AGENT_NAME: Final = "gen_ai.agent.name"
"""The same, for viewers that show names."""
CONVERSATION_ID: Final = "gen_ai.conversation.id"
"""The session."""
REQUEST_MODEL: Final = "gen_ai.request.model"
"""The model asked."""
INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
"""From the model's own usage."""
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
"""From the model's own usage."""
TOPIC: Final = "blackboard.topic"
"""The topic of a write whose reference is not known yet."""
REVISION: Final = "blackboard.revision"
"""The revision that was read or made."""
ONCE: Final = "blackboard.once"
"""The name given to `once`: a kind of work."""
REUSED: Final = "blackboard.reused"
"""Whether `once` found the result made."""
HANDLER: Final = "blackboard.handler"
"""The handler's name."""
MESSAGING_SYSTEM: Final = "messaging.system"
"""Always `nats`."""
MESSAGING_OPERATION: Final = "messaging.operation.name"
"""`process`."""
MESSAGING_TYPE: Final = "messaging.operation.type"
"""`process`."""
DESTINATION: Final = "messaging.destination.name"
"""The board's stream."""
DESTINATION_TEMPLATE: Final = "messaging.destination.template"
"""The handler's filter."""
CONSUMER_GROUP: Final = "messaging.consumer.group.name"
"""The durable consumer that the replicas share."""
MESSAGE_ID: Final = "messaging.message.id"
"""The reference of the input, pinned."""
DELIVERY_COUNT: Final = "messaging.message.delivery_count"
"""Which delivery of this input it is, counted from 1."""
BATCH_COUNT: Final = "messaging.batch.message_count"
"""How many parts a group has, or messages a batch."""


class Metric(NamedTuple):
    """A counter, a histogram or a gauge."""

    name: str
    unit: str
    description: str


READS: Final = Metric("blackboard.reads", "{memory}", "Reads by reference")
SEARCHES: Final = Metric("blackboard.searches", "{search}", "Recalls and queries")
INDEXED: Final = Metric("blackboard.index.memories", "{memory}", "Memories taken into the index")
INDEX_SKIPPED: Final = Metric(
    "blackboard.index.skipped", "{memory}", "Memories that could not be indexed"
)
INDEX_LAG: Final = Metric(
    "blackboard.index.lag", "{message}", "Messages that the index has not taken in"
)
WRITES: Final = Metric("blackboard.writes", "{memory}", "Revisions and tombstones stored")
CONFLICTS: Final = Metric("blackboard.conflicts", "{write}", "Writes that another one preceded")
DELIVERIES: Final = Metric("blackboard.deliveries", "{memory}", "Memories given to handlers")
HANDLED: Final = Metric("blackboard.handled", "{memory}", "Deliveries that a handler finished")
RETRIES: Final = Metric("blackboard.retries", "{memory}", "Deliveries given back for later")
GROUPLESS: Final = Metric("blackboard.groupless", "{memory}", "Parts without a group, skipped")
ANSWERS_DROPPED: Final = Metric("blackboard.answers.dropped", "{answer}", "Answers that came late")
DEAD_LETTERS: Final = Metric("blackboard.dead_letters", "{memory}", "Inputs a handler gave up on")
ONCE_MADE: Final = Metric("blackboard.once.made", "{result}", "Results of `once` made here")
ONCE_REUSED: Final = Metric("blackboard.once.reused", "{result}", "Results of `once` found made")
TOKENS_SAVED: Final = Metric("blackboard.tokens_saved", "{token}", "Tokens that reuse spared")
INVALID_MESSAGES: Final = Metric(
    "blackboard.messages.invalid", "{message}", "Messages skipped: no honest memory"
)
AUDIT_DROPPED: Final = Metric(
    "blackboard.audit.dropped", "{event}", "Audit events lost: not written in time"
)
SPANS_DROPPED: Final = Metric(
    "blackboard.spans.dropped", "{span}", "Spans lost on their way to the board"
)
EXPORT_DROPPED: Final = Metric(
    "blackboard.export.dropped", "{span}", "Spans lost on their way to the OTLP endpoint"
)
HANDLE_SECONDS: Final = Metric("blackboard.handle.duration", "s", "What a handler's run took")
LAG_SECONDS: Final = Metric("blackboard.delivery.lag", "s", "From stored to given to the handler")

_meter = metrics.get_meter("blackboard")
_counter = cache(_meter.create_counter)
_histogram = cache(_meter.create_histogram)
_gauge = cache(_meter.create_gauge)


def add(metric: Metric, n: int, labels: Mapping[str, str]) -> None:
    """Add to a counter of the program's meter provider; nothing happens when it has none."""
    _counter(*metric).add(n, labels)


class Telemetry:
    """The spans and counters of one agent's process at one board.

    Attributes:
        board: Whose stream the spans go to.
        agent: Whose spans they are; `service.name` where they are exported.
        instance: This process, as a UUID.
    """

    def __init__(
        self,
        board: str,
        agent: str,
        instance: str,
        sink: Callable[[SpanRecord], None],
        *,
        ratio: float = 1.0,
        otlp_endpoint: str | None = None,
        otlp_protocol: str = OTLP_HTTP,
    ) -> None:
        """Begin; whether the program has a tracer provider of its own is looked up here.

        Args:
            board: The board's name.
            agent: The agent's name.
            instance: A UUID of this process.
            sink: Takes each finished span; must neither block nor raise.
            ratio: Share of new traces that are recorded, 0 to 1. A span inside a trace follows it.
            otlp_endpoint: Where spans are exported to. Not used when the program has installed a
                tracer provider: then the spans go through that, under its sampling and exporters.
            otlp_protocol: `http/protobuf` or `grpc`.

        Raises:
            SettingsError: The endpoint or protocol cannot be used, or no exporter is installed.
        """
        self.board = board
        self.agent = agent
        self.instance = instance
        self._otlp = (otlp_endpoint, otlp_protocol)
        self._counts: dict[str, int] = {}
        self._labels = {STORE_ID: board, AGENT_NAME: agent}
        self._base = {STORE_ID: board, AGENT_ID: agent, AGENT_NAME: agent}
        self._operations = {name: {**self._base, OPERATION: name} for name in OPERATIONS}
        self._export: Export | None = None
        tracer = _users_tracer()
        foreign = tracer is not None
        if tracer is None and otlp_endpoint:
            # Here, because it loads the SDK.
            from blackboard.otlp import open_export  # noqa: PLC0415

            self._export = open_export(otlp_endpoint, otlp_protocol, _export_lost)
            tracer = _working(self._export.tracer(agent, instance, ids))
        self._recorder = Recorder(
            agent, instance, sink, ratio=ratio, tracer=tracer, foreign=foreign
        )

    def sibling(
        self,
        sink: Callable[[SpanRecord], None],
        *,
        board: str | None = None,
        agent: str | None = None,
    ) -> "Telemetry":
        """The same process under another name or at another board, with counters of its own."""
        endpoint, protocol = self._otlp
        return Telemetry(
            board or self.board,
            agent or self.agent,
            self.instance,
            sink,
            ratio=self._recorder.ratio,
            otlp_endpoint=endpoint,
            otlp_protocol=protocol,
        )

    def span(
        self,
        name: str,
        *,
        kind: Kind | None = None,
        attributes: Mapping[str, Value] | None = None,
        parent: Mapping[str, str] | None = None,
        links: Sequence[str] = (),
        expected: tuple[type[BaseException], ...] = (),
    ) -> Span:
        """A span, to be used as `with telemetry.span(…) as span:`, also around awaits.

        Args:
            name: A constant of this module, for requests to a model followed by its name.
            kind: None means client for the operations on memories and models, else internal.
            attributes: No content.
            parent: Headers of the message that caused it; without a `traceparent` that can be read,
                the current span is the parent.
            links: `traceparent`s of other spans that it continues.
            expected: Errors that are answers, such as `NotFoundError` of a get. Such an end, or a
                cancellation, is recorded as the outcome and not as an error.
        """
        base = self._operations.get(name)
        if base is None:
            base = self._operations.get(name.partition(" ")[0], self._base)
        if kind is None:
            kind = "internal" if base is self._base else "client"
        return Span(self._recorder, name, kind, base, attributes, parent, links, expected)

    def delivery(
        self,
        pattern: str,
        handler: str,
        ref: Ref,
        *,
        delivery: int = 1,
        parent: Mapping[str, str] | None = None,
        links: Sequence[str] = (),
        expected: tuple[type[BaseException], ...] = (),
    ) -> Span:
        """The span of a handler's run on one input, by the messaging conventions.

        Args:
            pattern: The handler's topic pattern.
            handler: The handler's name.
            ref: The input, pinned.
            delivery: Counted from 1.
            parent: The input's headers.
            links: `traceparent`s of the other parts, for a group.
            expected: As for `span`.
        """
        attributes: dict[str, Value] = {
            MESSAGING_SYSTEM: "nats",
            MESSAGING_OPERATION: PROCESS,
            MESSAGING_TYPE: PROCESS,
            DESTINATION: memory_stream(self.board),
            DESTINATION_TEMPLATE: Pattern(pattern).subject(self.board),
            CONSUMER_GROUP: consumer_name(self.agent, handler),
            HANDLER: handler,
            MESSAGE_ID: ref,
            DELIVERY_COUNT: delivery,
        }
        return Span(
            self._recorder,
            f"{PROCESS} {pattern}",
            "consumer",
            self._base,
            attributes,
            parent,
            links,
            expected,
        )

    def inject(self, headers: dict[str, str]) -> None:
        """Add the current span's `traceparent`, also when it is not recorded; nothing without."""
        propagator.inject(headers)

    def trace_id(self) -> str | None:
        """The current trace, as 32 hex digits."""
        current = trace.get_current_span().get_span_context()
        return f"{current.trace_id:032x}" if current.is_valid else None

    def count(self, metric: Metric, n: int = 1) -> None:
        """Add to a counter."""
        self._counts[metric.name] = self._counts.get(metric.name, 0) + n
        add(metric, n, self._labels)

    def counted(self, metric: Metric) -> int:
        """What was counted since the start."""
        return self.counters.get(metric.name, 0)

    @property
    def counters(self) -> dict[str, int]:
        """What was counted since the start, by the metric's name; zeros are left out.

        Spans lost in export are counted for the whole process.
        """
        lost = self._export.dropped if self._export is not None else 0
        return {**self._counts, EXPORT_DROPPED.name: lost} if lost else dict(self._counts)

    def observe(self, metric: Metric, value: float) -> None:
        """Add a value to a histogram."""
        _histogram(*metric).record(value, self._labels)

    def measure(self, metric: Metric, value: float) -> None:
        """Set a gauge to what was measured just now."""
        _gauge(*metric).set(value, self._labels)

    def shutdown(self, timeout_s: float = 2.0) -> None:
        """Leave the exporter; the last one of the process has it send what waits, and closes it.

        Spans that end later still go to the board. Blocks for at most `timeout_s`, and not at all
        without an endpoint; from async code call
        `await anyio.to_thread.run_sync(telemetry.shutdown)`. Calling it again does nothing.
        """
        export, self._export = self._export, None
        if export is not None:
            lost = export.close(timeout_s)
            self._counts[EXPORT_DROPPED.name] = lost
            self._recorder.tracer = None


def _export_lost(n: int) -> None:
    add(EXPORT_DROPPED, n, {})


def _users_tracer() -> Tracer | None:
    """A tracer of the provider that the program has installed, or None."""
    provider = trace.get_tracer_provider()
    if isinstance(provider, ProxyTracerProvider | NoOpTracerProvider):
        return None
    return _working(provider.get_tracer("blackboard"))


def _working(tracer: Tracer) -> Tracer | None:
    """None in place of what the SDK gives when `OTEL_SDK_DISABLED` is set."""
    return None if isinstance(tracer, NoOpTracer) else tracer
