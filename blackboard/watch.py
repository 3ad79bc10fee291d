"""Reading a board as it grows: watching, replaying, waiting.

A watcher that begins in the past first learns which memories were taken back since, so that it is
not shown what nobody should see any more; a replay shows the past as it was.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime, timedelta
from typing import Literal

import anyio

from blackboard.clock import check_moment, now
from blackboard.errors import InvalidError, NoAnswerError
from blackboard.jetstream import Start
from blackboard.jetstream.message import EPOCH
from blackboard.journal import Journal
from blackboard.log import Following, Log
from blackboard.messages import Memory
from blackboard.reader import Reader
from blackboard.subjects import Pattern, Ref
from blackboard.telemetry import REPLAY_MEMORY, TOPIC, WATCH_MEMORY

Since = Literal["start"] | datetime | timedelta | int | None
"""Where reading begins: a time, a time ago, a revision (inclusive), the start, or now (None)."""


def start_at(since: Since) -> Start:
    """Turn `since=` into where a consumer begins.

    Raises:
        InvalidError: A time without zone, a revision below 1, or something else altogether.
    """
    if since is None:
        return Start.now()
    if since == "start":
        return Start.all()
    if isinstance(since, timedelta):
        since = EPOCH if since > now() - EPOCH else now() - since
    if isinstance(since, datetime):
        check_moment("since", since)
        return Start.all() if since <= EPOCH else Start.at(since)
    if isinstance(since, int) and since >= 1:  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
        return Start.after(since - 1)
    raise InvalidError(f"since={since!r} must be a time, a timedelta, a revision or 'start'")


@asynccontextmanager
async def watch(
    log: Log, reader: Reader, journal: Journal, pattern: str, since: Since
) -> AsyncGenerator[AsyncIterator[Memory]]:
    """Follow a pattern; see `Blackboard.watch`."""
    subject = Pattern.parse(pattern).subject(log.board)
    start = start_at(since)
    journal.audit("watch", pattern)
    async with AsyncExitStack() as stack:
        with log.telemetry.span(WATCH_MEMORY, attributes={TOPIC: pattern}):
            taken_back = {} if since is None else await _tombstones(log, subject)
            following = await stack.enter_async_context(log.follow(subject, start))
        yield _watched(following, reader, journal, taken_back)


async def _watched(
    following: Following, reader: Reader, journal: Journal, taken_back: Mapping[Ref, int]
) -> AsyncGenerator[Memory]:
    async for memory in following:
        if memory.gone is None and memory.revision < taken_back.get(memory.ref, 0):
            continue
        shown = await reader.shown(memory)
        if shown is not None:
            await journal.room()
            journal.audit("delivery", str(shown.ref), revision=shown.revision)
            yield shown


async def _tombstones(log: Log, subject: str) -> dict[Ref, int]:
    """The memories whose newest revision is a tombstone, and its revision."""
    found: dict[Ref, int] = {}
    async with log.follow(subject, Start.newest(), headers_only=True) as following:
        while following.pending:
            memory = await following.step()
            if memory is not None and memory.gone is not None:
                found[memory.ref] = memory.revision
    return found


@asynccontextmanager
async def replay(
    log: Log,
    reader: Reader,
    journal: Journal,
    pattern: str,
    since: Since,
    until: datetime | int | None,
    speed: float | None,
) -> AsyncGenerator[AsyncIterator[Memory]]:
    """Read the past of a pattern; see `Blackboard.replay`."""
    if speed is not None and speed <= 0:
        raise InvalidError(f"speed={speed} must be above 0; None replays at once")
    if until is not None and not isinstance(until, int):
        check_moment("until", until)
    subject = Pattern.parse(pattern).subject(log.board)
    journal.audit("replay", pattern)
    start = start_at(since)
    async with AsyncExitStack() as stack:
        with log.telemetry.span(REPLAY_MEMORY, attributes={TOPIC: pattern}):
            info = await log.connection.stream(log.stream)
            last = 0 if info is None else info.state.last_seq
            following = await stack.enter_async_context(log.follow(subject, start))
        yield _replayed(following, reader, journal, last, until, speed)


async def _replayed(
    following: Following,
    reader: Reader,
    journal: Journal,
    last: int,
    until: datetime | int | None,
    speed: float | None,
) -> AsyncGenerator[Memory]:
    began = anyio.current_time()
    first: datetime | None = None
    while following.pending:
        memory = await following.step()
        if memory is None:
            continue
        if memory.revision > last or _is_past(memory, until):
            return
        if speed is not None and memory.stored is not None:
            first = first or memory.stored
            due = began + (memory.stored - first).total_seconds() / speed
            await anyio.sleep_until(due)
        shown = await reader.shown(memory)
        if shown is not None:
            await journal.room()
            journal.audit("delivery", str(shown.ref), revision=shown.revision)
            yield shown


def _is_past(memory: Memory, until: datetime | int | None) -> bool:
    if until is None:
        return False
    if isinstance(until, int):
        return memory.revision > until
    return memory.stored is not None and memory.stored > until


async def wait_for(
    log: Log,
    reader: Reader,
    journal: Journal,
    subject: str,
    matches: Callable[[Memory], bool],
    timeout_s: float | None,
    what: str,
) -> Memory:
    """The first live memory that matches, of those there are now and those to come.

    Raises:
        NoAnswerError: None came in time.
    """
    journal.audit("wait", what)
    with anyio.move_on_after(timeout_s):
        async with log.follow(subject, Start.newest()) as following:
            past = following.pending > 0
            async for memory in following:
                # The newest of each subject: of shared state, one of every agent that wrote it.
                older = past and memory.ref.shared
                past = past and following.pending > 0
                if memory.gone is not None or not matches(memory):
                    continue
                if older and await _is_replaced(log, memory):
                    continue
                shown = await reader.shown(memory)
                if shown is not None:
                    journal.audit("delivery", str(shown.ref), revision=shown.revision)
                    return shown
    raise NoAnswerError(f"nothing that matches {what} came within {timeout_s} s")


async def _is_replaced(log: Log, memory: Memory) -> bool:
    head = await log.head(memory.ref)
    return head is not None and head.revision > memory.revision
