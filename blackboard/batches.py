"""Reading what processes noted beside the board: batches of audit events and of spans.

A batch whose answer was lost may be stored twice, byte for byte the same; here it counts once.
"""

import hashlib
from collections.abc import Callable
from typing import TypeVar

from blackboard.board import Blackboard
from blackboard.errors import InvalidError
from blackboard.jetstream import Start, follow
from blackboard.journal import read_audit, read_spans
from blackboard.records import AuditBatch, SpanBatch
from blackboard.subjects import audit_stream, audit_subject, spans_stream, spans_subject

BatchT = TypeVar("BatchT")
REMEMBERED = 10_000
"""Batches among which equal ones are taken as one: they are stored close to each other."""


async def each_audit_batch(
    board: Blackboard, start: Start, take: Callable[[AuditBatch], None], *, agent: str = "*"
) -> None:
    """Read the audit up to now, and give each batch to `take`; what is none is left out."""
    stream = audit_stream(board.name)
    await _each(board, stream, audit_subject(board.name, agent), start, read_audit, take)


async def each_span_batch(
    board: Blackboard, start: Start, take: Callable[[SpanBatch], None]
) -> None:
    """Read the spans up to now, and give each batch to `take`; what is none is left out."""
    stream = spans_stream(board.name)
    await _each(board, stream, spans_subject(board.name, "*"), start, read_spans, take)


async def last_batches(board: Blackboard, stream: str, count: int) -> Start:
    """Where the newest batches of a stream begin."""
    info = await board.session.connection.stream(stream)
    return Start.after(0 if info is None else max(0, info.state.last_seq - count))


async def lost(board: Blackboard, recent: int) -> tuple[int, int]:
    """Audit events and spans that processes could not write, as the newest batches say.

    Args:
        board: The board.
        recent: How many batches of each are looked at.
    """
    events = spans = 0

    def audit(batch: AuditBatch) -> None:
        nonlocal events
        events += batch.dropped

    def span(batch: SpanBatch) -> None:
        nonlocal spans
        spans += batch.dropped

    await each_audit_batch(
        board, await last_batches(board, audit_stream(board.name), recent), audit
    )
    await each_span_batch(board, await last_batches(board, spans_stream(board.name), recent), span)
    return events, spans


async def _each(
    board: Blackboard,
    stream: str,
    subject: str,
    start: Start,
    read: Callable[[str, bytes], BatchT],
    take: Callable[[BatchT], None],
) -> None:
    seen: dict[bytes, None] = {}
    async with follow(board.session.connection, stream, subject, start) as follower:
        while follower.pending:
            message = await follower.step()
            if message is None:
                continue
            digest = hashlib.sha256(message.subject.encode() + b" " + message.data).digest()
            if digest in seen:
                continue
            seen[digest] = None
            if len(seen) > REMEMBERED:
                del seen[next(iter(seen))]
            try:
                take(read(message.subject, message.data))
            except InvalidError:
                continue  # not from this library; nothing in it can be shown
