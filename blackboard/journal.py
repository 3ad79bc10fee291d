"""Gathers what a process read, did and took, and writes it in batches beside the board.

A message per event would triple the cost of a read, because the broker syncs every message to disk.
So events and spans wait here for at most 250 ms, or until there are 256, and go out as one message.
A process that is killed loses at most what waited; one that ends while the broker is away logs how
much that was.

Noting something neither blocks nor raises. While the broker is away batches wait and are sent
again; what finds no room is counted, and the next batch says how much is missing. A batch whose
answer was lost may be stored twice, byte for byte the same; readers take equal events and spans as
one.
"""

import logging
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Generic, TypeVar

import anyio
import anyio.lowlevel

from blackboard.clock import now
from blackboard.codec import decoder_of, encode_record, read
from blackboard.errors import RetryableError, TerminalError
from blackboard.records import AuditBatch, AuditEvent, SpanBatch, SpanRecord
from blackboard.subjects import audit_subject, spans_subject
from blackboard.telemetry import AGENT_NAME, AUDIT_DROPPED, SPANS_DROPPED, STORE_ID, Metric, add

INTERVAL_S = 0.25
BATCH = 256
CAPACITY = 16_384
"""Events, and as many spans, that may wait: about ten seconds of a busy process."""
MAX_BYTES = 512 * 1024
"""Of one message."""
IDLE_S = 5.0
"""How soon something noted from another thread is written when nothing else is going on."""
ROOM_S = 1.0
"""How long a reader waits for room at most, for one event."""
FINAL_S = 2.0
"""What the last writing may take when the process ends."""

Publish = Callable[[str, bytes], Awaitable[object]]
ItemT = TypeVar("ItemT")
logger = logging.getLogger(__name__)


class Journal:
    """The audit events and spans of one agent's process at one board.

    Note things from the event loop's thread, or from others: those are written within 5 s.

    Args:
        board: The board's name.
        agent: Under whose subject this is written.
        instance: A UUID of this process.
        publish: Stores a message at a subject. After a `RetryableError` or an `OSError` the same is
            tried again; after a `TerminalError` the batch is lost.
        interval_s: How long things are gathered.
        capacity: How many events, and how many spans, may wait.
        clock: The time of an event.
    """

    def __init__(
        self,
        board: str,
        agent: str,
        instance: str,
        publish: Publish,
        *,
        interval_s: float = INTERVAL_S,
        capacity: int = CAPACITY,
        clock: Callable[[], datetime] = now,
    ) -> None:
        self._agent = agent
        self._instance = instance
        self._publish = publish
        self._interval_s = interval_s
        self._clock = clock
        labels = {STORE_ID: board, AGENT_NAME: agent}
        self._events = _Queue(
            audit_subject(board, agent), _audit_body, capacity, AUDIT_DROPPED, labels
        )
        self._spans = _Queue(
            spans_subject(board, agent), _spans_body, capacity, SPANS_DROPPED, labels
        )
        self._ample = capacity // 2
        self._stuck = False
        self._progress = anyio.Event()
        self._thread: int | None = None
        self._writing = anyio.Lock()
        self._some = anyio.Event()
        self._many = anyio.Event()

    def audit(
        self,
        act: str,
        what: str,
        *,
        revision: int | None = None,
        outcome: str = "ok",
        handler: str | None = None,
        count: int = 1,
        trace: str | None = None,
    ) -> None:
        """Note a read, a delivery or a privileged act.

        Args:
            act: As listed at `AuditEvent`.
            what: The reference or the pattern.
            revision: That was read or made.
            outcome: `ok`, or the class of the error.
            handler: Which handler got the delivery.
            count: How many reads this stands for.
            trace: The trace, as 32 hex digits.
        """
        event = AuditEvent(
            at=self._clock(),
            agent=self._agent,
            instance=self._instance,
            act=act,
            what=what,
            revision=revision,
            outcome=outcome,
            count=count,
            handler=handler,
            trace=trace,
        )
        self._noted(self._events.add(event))

    async def room(self) -> None:
        """Wait until there is room for more events, unless the broker is away.

        For readers who are faster than the journal is written, so that no delivery goes unrecorded;
        an outage must not stop them, and then what finds no room is counted.
        """
        while len(self._events.items) > self._ample and not self._stuck:
            with anyio.move_on_after(ROOM_S) as scope:
                await self._progress.wait()
            if scope.cancelled_caught:
                return

    def span(self, record: SpanRecord) -> None:
        """Note a finished span."""
        self._noted(self._spans.add(record))

    @property
    def counters(self) -> dict[str, int]:
        """What was lost since the start, by the metric's name; zeros are left out."""
        return {
            queue.metric.name: queue.lost for queue in (self._events, self._spans) if queue.lost
        }

    async def run(self) -> None:
        """Write until cancelled, and then what is left, for at most 2 s."""
        self._thread = threading.get_ident()
        try:
            written = True
            while True:
                await (self._due() if written else anyio.sleep(self._interval_s))
                written = await self.flush()
        finally:
            with anyio.move_on_after(FINAL_S, shield=True):
                # Tasks that are cancelled together with this one still note how they ended.
                await anyio.lowlevel.checkpoint()
                while self._waiting and await self.flush():
                    pass
            self._thread = None
            self._events.abandon()
            self._spans.abandon()

    async def flush(self) -> bool:
        """Write what waits now; False when some of it could not be written and waits on."""
        async with self._writing:
            # Both are tried: the one's stream may be full while the other's is not.
            events = await self._write(self._events)
            return await self._write(self._spans) and events

    @property
    def _waiting(self) -> int:
        return len(self._events.items) + len(self._spans.items)

    async def _due(self) -> None:
        """Wait until there is something, and then until the interval is over or a batch is full."""
        with anyio.move_on_after(IDLE_S):
            await self._some.wait()
        with anyio.move_on_after(self._interval_s):
            await self._many.wait()
        self._some, self._many = anyio.Event(), anyio.Event()

    async def _write(self, queue: "_Queue[ItemT]") -> bool:
        # Only what waits now: what comes while this is being written shall gather as well.
        due = len(queue.items)
        while due > 0 and (body := queue.next_body()) is not None:
            try:
                await self._publish(queue.subject, body)
            except (RetryableError, OSError) as error:
                logger.debug("journal.waits", extra={"subject": queue.subject, "error": str(error)})
                self._stuck = True
                return False
            except TerminalError as error:
                logger.warning(
                    "journal.refused", extra={"subject": queue.subject, "error": str(error)}
                )
                due -= queue.refused()
            else:
                due -= queue.written()
                self._stuck = False
            self._progress.set()
            self._progress = anyio.Event()
        return True

    def _noted(self, waiting: int) -> None:
        # Events of the loop may only be set in its own thread; `run` looks again after IDLE_S.
        if self._thread is not None and self._thread != threading.get_ident():
            return
        if not self._some.is_set():
            self._some.set()
        if waiting >= BATCH and not self._many.is_set():
            self._many.set()


class _Queue(Generic[ItemT]):
    """What waits for one subject.

    Attributes:
        dropped: Lost since the last batch that was written.
        lost: Lost since the start.
    """

    def __init__(
        self,
        subject: str,
        encode: Callable[[tuple[ItemT, ...], int], bytes],
        capacity: int,
        metric: Metric,
        labels: Mapping[str, str],
    ) -> None:
        self.subject = subject
        self.metric = metric
        self.items: deque[ItemT] = deque()
        self.dropped = 0
        self.lost = 0
        self._encode = encode
        self._capacity = capacity
        self._labels = labels
        self._body: bytes | None = None
        self._inside = 0
        self._told = 0

    def add(self, item: ItemT) -> int:
        """Take an item, or count it when there is no room; returns how many wait."""
        if len(self.items) < self._capacity:
            self.items.append(item)
        else:
            self._drop(1)
        return len(self.items)

    def next_body(self) -> bytes | None:
        """The next message; the same one until it is `written` or `refused`, None if nothing waits.

        An item that has no JSON form, or is too large for a message of its own, is dropped.
        """
        count = min(BATCH, len(self.items))
        while self._body is None and count:
            # By index, because another thread may append.
            chosen = tuple(self.items[index] for index in range(count))
            body = self._encoded(chosen)
            if body is not None:
                self._body, self._inside, self._told = body, count, self.dropped
            elif count > 1:
                count //= 2
            else:
                self.items.popleft()
                self._drop(1)
                count = min(BATCH, len(self.items))
        return self._body

    def written(self) -> int:
        """The message is stored; returns how many items it had."""
        self.dropped -= self._told
        return self._done()

    def refused(self) -> int:
        """The message will never be stored; returns how many items it had."""
        self._drop(self._inside)
        return self._done()

    def abandon(self) -> None:
        """The process ends; what still waits is lost, though a part of it may have been stored."""
        count = len(self.items)
        if count:
            self._drop(count)
            self.items.clear()
            self._body, self._inside, self._told = None, 0, 0
            logger.warning("journal.lost", extra={"subject": self.subject, "items": count})

    def _done(self) -> int:
        count = self._inside
        for _ in range(count):
            self.items.popleft()
        self._body, self._inside, self._told = None, 0, 0
        return count

    def _encoded(self, items: tuple[ItemT, ...]) -> bytes | None:
        try:
            body = self._encode(items, self.dropped)
        except (TypeError, ValueError, OverflowError, RecursionError):
            return None
        return body if len(body) <= MAX_BYTES else None

    def _drop(self, n: int) -> None:
        if not self.dropped:
            logger.warning("journal.drops", extra={"subject": self.subject})
        self.dropped += n
        self.lost += n
        add(self.metric, n, self._labels)


def read_audit(subject: str, body: bytes) -> AuditBatch:
    """Read a message of the audit stream, without events under another agent's name.

    Raises:
        InvalidError: It is no batch.
    """
    batch = read(_audit_decoder, body)
    agent = subject.rsplit(".", 1)[-1]
    # One without time zone is not of this library, and cannot be ordered among the others.
    own = tuple(one for one in batch.events if one.agent == agent and one.at.tzinfo is not None)
    return AuditBatch(own, batch.dropped)


def read_spans(subject: str, body: bytes) -> SpanBatch:
    """Read a message of the span stream, without spans under another agent's name.

    Raises:
        InvalidError: It is no batch.
    """
    batch = read(_spans_decoder, body)
    agent = subject.rsplit(".", 1)[-1]
    return SpanBatch(tuple(span for span in batch.spans if span.agent == agent), batch.dropped)


def _audit_body(events: tuple[AuditEvent, ...], dropped: int) -> bytes:
    return encode_record(AuditBatch(events, dropped))


def _spans_body(spans: tuple[SpanRecord, ...], dropped: int) -> bytes:
    return encode_record(SpanBatch(spans, dropped))


_audit_decoder = decoder_of(AuditBatch)
_spans_decoder = decoder_of(SpanBatch)
