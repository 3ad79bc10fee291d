"""One span of ours: begun, made current, ended, recorded.

A span that is recorded has a context (`SpanContext`) under which the spans below it nest, in this
process and beyond. Whether it is also a span of the OpenTelemetry SDK depends on whether there is
anybody to export to; the record that goes to the board is made here and is the same either way.
"""

import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextvars import Token
from types import TracebackType
from typing import Final, Literal, Self

from opentelemetry import context as contexts, trace
from opentelemetry.context import Context
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    Tracer,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from blackboard.records import SpanRecord
from blackboard.subjects import Ref

Value = str | bool | int | float | Ref | None
"""Of an attribute. A reference becomes text only if the span is recorded; None is left out."""
Kind = Literal["internal", "client", "producer", "consumer", "server"]

TRACEPARENT: Final = "traceparent"
ERROR_TYPE: Final = "error.type"
"""The error's class."""
OUTCOME: Final = "blackboard.outcome"
"""How it ended when that is neither success nor an error: the class of what was raised."""
MAX_LINKS = 64
"""A span keeps the first of its links; a group may have thousands of parts."""

propagator = TraceContextTextMapPropagator()
# Not the module's generator: a program that seeds that one, as for a repeatable experiment, would
# give the same ids to all its processes; and so would a fork.
ids = random.Random()
os.register_at_fork(after_in_child=ids.seed)

_KINDS: dict[str, SpanKind] = {kind.name.lower(): kind for kind in SpanKind}
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_UNSAMPLED = TraceFlags(TraceFlags.DEFAULT)
_OWN = contexts.create_key("blackboard-span")


class Recorder:
    """What the spans of one agent at one board have in common.

    Args:
        agent: The agent's name.
        instance: Its process.
        sink: Takes the records.
        ratio: Share of new traces that are recorded; without effect on a `foreign` tracer.
        tracer: Makes the SDK's spans; None makes none.
        foreign: The tracer is the user's: its sampler decides.
    """

    __slots__ = ("agent", "foreign", "instance", "ratio", "sink", "tracer")

    def __init__(
        self,
        agent: str,
        instance: str,
        sink: Callable[[SpanRecord], None],
        *,
        ratio: float,
        tracer: Tracer | None,
        foreign: bool,
    ) -> None:
        self.agent = agent
        self.instance = instance
        self.sink = sink
        self.ratio = ratio
        self.tracer = tracer
        self.foreign = foreign

    def draw(self) -> bool:
        """Decide whether a new trace is recorded."""
        return self.ratio >= 1.0 or ids.random() < self.ratio


class Span:
    """A span, from `with` to its end; it may be used around awaits, once.

    Attributes:
        recording: Whether it is recorded, known inside `with`. Check it before costly attributes.
    """

    __slots__ = (
        "_attributes",
        "_base",
        "_error",
        "_expected",
        "_given",
        "_kind",
        "_links",
        "_name",
        "_parent",
        "_parent_id",
        "_recorder",
        "_span",
        "_start",
        "_token",
        "recording",
    )

    def __init__(
        self,
        recorder: Recorder,
        name: str,
        kind: Kind,
        base: Mapping[str, str],
        attributes: Mapping[str, Value] | None,
        parent: Mapping[str, str] | None,
        links: Sequence[str],
        expected: tuple[type[BaseException], ...],
    ) -> None:
        self._recorder = recorder
        self._name = name
        self._kind: Kind = kind
        self._base = base
        self._given = attributes
        self._parent = parent
        self._links = links
        self._expected = expected
        self._token: Token[Context] | None = None
        self.recording = False

    def __enter__(self) -> Self:
        recorder = self._recorder
        context = contexts.get_current()
        if self._parent is not None:
            context = propagator.extract(self._parent, context)
        above = trace.get_current_span(context).get_span_context()
        if recorder.foreign or (above.trace_flags.sampled if above.is_valid else recorder.draw()):
            self._begin(context, above)
        elif not above.is_valid:
            # Not recorded, but named: what is written below it carries the trace all the same.
            own = SpanContext(_trace_id(), _span_id(), is_remote=False, trace_flags=_UNSAMPLED)
            self._token = contexts.attach(trace.set_span_in_context(NonRecordingSpan(own), context))
        elif self._parent is not None:
            self._token = contexts.attach(context)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        end = time.time_ns()
        if self._token is not None:
            contexts.detach(self._token)
        if self.recording:
            if error is not None:
                if isinstance(error, self._expected) or not isinstance(error, Exception):
                    self.set_attribute(OUTCOME, type(error).__name__)
                else:
                    self.fail(error)
            self._end(end)

    def set_attribute(self, name: str, value: Value) -> None:
        """Set an attribute (no content); without effect when the span is not recorded."""
        if self.recording and value is not None:
            plain = str(value) if type(value) is Ref else value
            self._attributes[name] = plain
            self._span.set_attribute(name, plain)

    def link(self, traceparent: str | None) -> None:
        """Name a span that this one continues; without effect when it is not recorded."""
        if not self.recording or traceparent is None or len(self._links) >= MAX_LINKS:
            return
        for one in _linked([traceparent]):
            self._links = (*self._links, f"{one.trace_id:032x}-{one.span_id:016x}")
            self._span.add_link(one)

    def fail(self, error: BaseException) -> None:
        """Mark the span as failed, for an error that the caller handles itself."""
        if self.recording:
            self._error = type(error).__name__
            self.set_attribute(ERROR_TYPE, self._error)
            self._span.set_status(StatusCode.ERROR)

    def _begin(self, context: Context, above: SpanContext) -> None:
        tracer = self._recorder.tracer
        given = self._given
        self._attributes = {} if given is None else _plain(given)
        linked = _linked(self._links) if self._links else ()
        self._start = time.time_ns()
        if tracer is None:
            self._span = NonRecordingSpan(_child(above))
            self.recording = True
        else:
            self._span = tracer.start_span(
                self._name,
                context,
                _KINDS[self._kind],
                {**self._base, **self._attributes},
                [Link(one) for one in linked],
                self._start,
            )
            self.recording = self._span.is_recording()
        own = self._span.get_span_context()
        self._error: str | None = None
        self._parent_id = _parent_id(context, above)
        self._links = tuple(f"{one.trace_id:032x}-{one.span_id:016x}" for one in linked)
        self._token = contexts.attach(
            contexts.set_value(_OWN, own, trace.set_span_in_context(self._span, context))
        )

    def _end(self, end: int) -> None:
        recorder = self._recorder
        own = self._span.get_span_context()
        end = max(end, self._start)  # the clock may have been set back
        self._span.end(end)
        recorder.sink(
            SpanRecord(
                trace=f"{own.trace_id:032x}",
                span=f"{own.span_id:016x}",
                parent=self._parent_id,
                name=self._name,
                kind=self._kind,
                start_ns=self._start,
                end_ns=end,
                agent=recorder.agent,
                instance=recorder.instance,
                attributes=self._attributes,
                links=tuple(self._links),
                error=self._error,
            )
        )


def _plain(given: Mapping[str, Value]) -> dict[str, str | bool | int | float]:
    return {
        name: str(value) if type(value) is Ref else value
        for name, value in given.items()
        if value is not None
    }


def _child(above: SpanContext) -> SpanContext:
    """The context of a recorded span under `above`, or of a new trace."""
    if above.is_valid:
        return SpanContext(
            above.trace_id,
            _span_id(),
            is_remote=False,
            trace_flags=above.trace_flags,
            trace_state=above.trace_state,
        )
    return SpanContext(_trace_id(), _span_id(), is_remote=False, trace_flags=_SAMPLED)


def _parent_id(context: Context, above: SpanContext) -> str | None:
    """The parent on the board: spans of the user's own code between two of ours are not there."""
    if not above.is_valid:
        return None
    own = context.get(_OWN)
    if not above.is_remote and isinstance(own, SpanContext) and own.trace_id == above.trace_id:
        return f"{own.span_id:016x}"
    return f"{above.span_id:016x}"


def _linked(links: Sequence[str]) -> tuple[SpanContext, ...]:
    """What the links name; those that nobody can read are left out."""
    found = (
        trace.get_current_span(propagator.extract({TRACEPARENT: link}, Context()))
        for link in links[:MAX_LINKS]
    )
    return tuple(one for span in found if (one := span.get_span_context()).is_valid)


def _trace_id() -> int:
    return ids.getrandbits(128) or 1


def _span_id() -> int:
    return ids.getrandbits(64) or 1
