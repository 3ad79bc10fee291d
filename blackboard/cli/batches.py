"""Reading what processes noted beside the board: batches of audit events and of spans."""

from collections.abc import Callable
from typing import TypeVar

from blackboard.board import Blackboard
from blackboard.errors import InvalidError
from blackboard.jetstream import Start, follow
from blackboard.journal import read_audit, read_spans
from blackboard.records import AuditBatch, SpanBatch
from blackboard.subjects import audit_stream, audit_subject, spans_stream, spans_subject

BatchT = TypeVar("BatchT")


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


async def _each(
    board: Blackboard,
    stream: str,
    subject: str,
    start: Start,
    read: Callable[[str, bytes], BatchT],
    take: Callable[[BatchT], None],
) -> None:
    async with follow(board.session.connection, stream, subject, start) as follower:
        while follower.pending:
            message = await follower.step()
            if message is None:
                continue
            try:
                take(read(message.subject, message.data))
            except InvalidError:
                continue  # not from this library; nothing in it can be shown
