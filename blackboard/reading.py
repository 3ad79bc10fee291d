"""The reading side of the board: single memories, streams of them, and searches.

A part of `Blackboard`, in a module of its own so that either can be read in one sitting.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Unpack

from blackboard.conditions import Conditions, RefLike, filter_of, to_ref, to_tags
from blackboard.errors import (
    BlackboardError,
    GoneError,
    HistoryGoneError,
    InvalidError,
    NoAnswerError,
    NotFoundError,
)
from blackboard.finder import Finder
from blackboard.hits import Hits, Rows
from blackboard.journal import Journal
from blackboard.log import Log
from blackboard.messages import Memory
from blackboard.reader import Reader
from blackboard.search import (
    PATIENCE_S,
    CountBy,
    Filter,
    Order,
    QueryRequest,
    RecallRequest,
)
from blackboard.subjects import Pattern, Ref
from blackboard.telemetry import (
    GET_MEMORY,
    READS,
    RECORD_COUNT,
    RECORD_ID,
    REVISION,
    SEARCH_MEMORY,
    SEARCHES,
    TOPIC,
    WAIT_MEMORY,
    Telemetry,
)
from blackboard.view import LIMIT, View, open_view
from blackboard.watch import Since, replay, wait_for, watch

ABSENT = (NotFoundError, GoneError, HistoryGoneError)
"""Answers of a read, not errors of it."""


class Reading:
    """What a board offers to those who read.

    Attributes:
        log: The board's typed log, under this agent's name.
        journal: Notes what is read.
        telemetry: Spans and counters.
    """

    log: Log
    journal: Journal
    telemetry: Telemetry
    _reader: Reader

    async def get(self, ref: RefLike, *, at: datetime | None = None) -> Memory:
        """Get a memory: the newest revision, the pinned one, or the newest as of a time.

        Args:
            ref: A reference or its text; a `Memory` means its newest revision.
            at: A time, inclusive, with time zone.

        Raises:
            NotFoundError: Never written, or expired.
            GoneError: Taken back, or what it shows is.
            HistoryGoneError: The revision or time lies beyond the kept history (64 revisions).
            InvalidError: The reference is none, or the message there is no honest memory.
        """
        target = to_ref(ref)
        outcome, revision = "ok", None
        with self.telemetry.span(
            GET_MEMORY, attributes={RECORD_ID: target}, expected=ABSENT
        ) as span:
            try:
                memory = await self._get(target, at)
                revision = memory.revision
                span.set_attribute(REVISION, revision)
            except BlackboardError as error:
                outcome = type(error).__name__
                raise
            finally:
                self.telemetry.count(READS)
                trace = self.telemetry.trace_id()
                self.journal.audit(
                    "get", str(target), revision=revision, outcome=outcome, trace=trace
                )
            return memory

    async def _get(self, ref: Ref, at: datetime | None) -> Memory:
        if at is not None:
            return await self._reader.at(ref.unpinned, at)
        if ref.revision is not None:
            return await self._reader.pinned(ref)
        return await self._reader.newest(ref)

    def watch(
        self, pattern: str, since: Since = None
    ) -> AbstractAsyncContextManager[AsyncIterator[Memory]]:
        """Follow a pattern: every revision and tombstone, once, in order, without a gap.

        `async with board.watch("docs.>") as memories: async for memory in memories: …`

        It goes on by itself after a lost connection or a broker's restart.

        Args:
            pattern: `*` is one token, a last `>` zero or more.
            since: None: from now. A time, a timedelta ago, a revision or "start": history first.

        Raises:
            InvalidError: The pattern or `since` is none.
        """
        return watch(self.log, self._reader, self.journal, pattern, since)

    def replay(
        self,
        pattern: str,
        since: Since = "start",
        until: datetime | int | None = None,
        speed: float | None = None,
    ) -> AbstractAsyncContextManager[AsyncIterator[Memory]]:
        """Read the past as it was, in order, up to `until` or what there is when it begins.

        `async with board.replay("docs.>") as memories: async for memory in memories: …`

        Args:
            pattern: As in `watch`.
            since: As in `watch`.
            until: A time or a revision, inclusive.
            speed: 1.0 keeps the original pace, 2.0 is twice as fast, None reads at once.

        Raises:
            InvalidError: The pattern, `since`, `until` or `speed` is none.
        """
        return replay(self.log, self._reader, self.journal, pattern, since, until, speed)

    def view(self, pattern: str, *, limit: int = LIMIT) -> AbstractAsyncContextManager[View]:
        """Keep a local copy of the live memories under a pattern, current from the first moment.

        Args:
            pattern: As in `watch`.
            limit: How many memories it may hold.

        Raises:
            TooLargeError: More match; narrow the pattern or raise the limit.
            InvalidError: The pattern is none.
        """
        return open_view(self.log, self._reader, self.journal, pattern, limit)

    async def wait(
        self,
        pattern: str,
        *,
        session: str | None = None,
        kind: str | None = None,
        tags: Mapping[str, str] | None = None,
        timeout: float | None = 60.0,
    ) -> Memory:
        """Wait for the first live memory that matches, of those there are and those to come.

        Args:
            pattern: As in `watch`.
            session: Only of this session.
            kind: Only of this kind.
            tags: Only with all of these.
            timeout: Seconds; None waits for ever.

        Raises:
            NoAnswerError: None came in time (also a `TimeoutError`).
        """
        wanted = to_tags(tags) or {}

        def matches(memory: Memory) -> bool:
            return (
                session in (None, memory.session)
                and kind in (None, memory.kind)
                and wanted.items() <= memory.tags.items()
            )

        subject = Pattern.parse(pattern).subject(self.log.board)
        attributes = {TOPIC: pattern}
        with self.telemetry.span(WAIT_MEMORY, attributes=attributes, expected=(NoAnswerError,)):
            return await wait_for(
                self.log, self._reader, self.journal, subject, matches, timeout, pattern
            )

    async def recall(
        self,
        text: str,
        *,
        limit: int = 10,
        recency: float = 0.0,
        priority: float = 0.0,
        fresh: bool = True,
        at: datetime | None = None,
        **where: Unpack[Conditions],
    ) -> Hits:
        """Find the memories that fit a text best, by meaning and by words.

        Every hit is the newest revision of a memory, read under this agent's rights. What expired,
        was taken back or does not match any more is never among them, even while the index lags.
        Memories that show the same result of `once` are one hit.

        Args:
            text: A question or some words; up to 16,384 characters.
            limit: Hits wanted, at most 1,000.
            recency: Weight of being new against the match itself, 0 to 1.
            priority: Weight of the memory's priority, 0 to 1.
            fresh: Wait, for 2 s at most, until this agent's own last write is indexed; if it is not
                by then, the hits are `stale`. False does not wait.
            at: Not possible here: the index holds the newest revisions only.
            **where: Which memories: `topic=`, `agent=`, `tags=`, `since=` and more; see
                `Conditions`.

        Raises:
            InvalidError: An argument breaks a rule, or `at` is given.
            UnavailableError: No recall service answers for this board.
            ModelBusyError: Its embedding endpoint is overloaded or unreachable.
            SettingsError: What recall needs is not installed, or the index has another embedder.
        """
        if at is not None:
            raise InvalidError(
                "recall knows the newest revisions only; query(at=…) selects as of a time, and "
                "replay reads the past"
            )
        if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
            raise InvalidError(f"text={text!r} must be str")
        with self.telemetry.span(
            SEARCH_MEMORY, attributes={TOPIC: where.get("topic") or ">"}
        ) as span:
            chosen = await self._filter(where)
            request = RecallRequest(
                text=text,
                where=chosen,
                limit=limit,
                recency=recency,
                priority=priority,
                reached=self.log.reached if fresh else 0,
                patience_s=PATIENCE_S if fresh else 0.0,
            )
            hits = await self.finder.recall(request)
            self.telemetry.count(SEARCHES)
            span.set_attribute(RECORD_COUNT, len(hits))
            return hits

    async def query(
        self,
        *,
        order_by: Order = "-stored",
        limit: int = 100,
        cursor: str | None = None,
        count_by: Sequence[CountBy] | CountBy = (),
        fresh: bool = True,
        at: datetime | None = None,
        **where: Unpack[Conditions],
    ) -> Rows:
        """Select memories by what they say of themselves, in order, page after page.

        Without the recall service a query by topic, agent, session and time is answered from the
        stream itself, `degraded`: from its newest 100,000 messages.

        Args:
            order_by: `stored`, `happened`, `priority`, `agent` or `topic`; with `-` descending.
            limit: Rows wanted, at most 1,000; 0 for counts alone.
            cursor: `rows.cursor` of the page before, with the same conditions and order.
            count_by: Count all that match by `agent`, `topic`, `session`, `user`, `kind`, `access`
                or `tag`.
            fresh: As in `recall`.
            at: Select as of this time, inclusive. Reads the stream, from its beginning.
            **where: Which memories, as in `recall`.

        Raises:
            InvalidError: An argument breaks a rule.
            UnavailableError: No recall service answers, and the stream alone cannot tell.
            TooLargeError: Above 100,000 memories would have to be held to answer from the stream.
        """
        if at is not None and at.tzinfo is None:
            raise InvalidError("at= needs a time zone; write datetime.now(UTC)")
        with self.telemetry.span(
            SEARCH_MEMORY, attributes={TOPIC: where.get("topic") or ">"}
        ) as span:
            chosen = await self._filter(where)
            request = QueryRequest(
                where=chosen,
                order_by=order_by,
                limit=limit,
                cursor=cursor,
                count_by=(count_by,) if isinstance(count_by, str) else tuple(count_by),
                reached=self.log.reached if fresh else 0,
                patience_s=PATIENCE_S if fresh else 0.0,
            )
            rows = await self.finder.query(request, at)
            self.telemetry.count(SEARCHES)
            span.set_attribute(RECORD_COUNT, len(rows))
            return rows

    @property
    def finder(self) -> Finder:
        """What asks the index of this board; for its status, and to have it built anew."""
        return Finder(self.log, self._reader, self.journal)

    async def _filter(self, where: Conditions) -> Filter:
        before = where.get("before")
        if before is None or isinstance(before, int):
            return filter_of(where, before)
        ref = to_ref(before)
        revision = ref.revision or ref.written or (await self._reader.newest(ref)).revision
        return filter_of(where, revision)
