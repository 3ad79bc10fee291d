"""Audit events and spans reach the broker in batches; what does not is counted."""

from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest

from blackboard import journal as journals
from blackboard.codec import encode_record
from blackboard.jetstream import Connection, Outgoing
from blackboard.journal import BATCH, Journal, read_audit, read_spans
from blackboard.layout import create_board
from blackboard.records import AuditBatch, AuditEvent, SpanBatch
from blackboard.settings import MIB, Limits
from blackboard.subjects import audit_stream, spans_stream
from blackboard.telemetry import GET_MEMORY, Telemetry
from blackboard.trace import build, matching
from tests.servers import Server
from tests.shelf import Shelf, running, span
from tests.waiting import wait_until

SMALL = Limits(
    memory_bytes=8 * MIB,
    blob_bytes=8 * MIB,
    audit_bytes=8 * MIB,
    spans_bytes=8 * MIB,
    dead_bytes=8 * MIB,
)


async def stored(connection: Connection, stream: str, subject: str) -> list[tuple[str, bytes]]:
    """All messages of a stream that lie at one subject."""
    found: list[tuple[str, bytes]] = []
    sequence = 1
    while (message := await connection.next_after(stream, subject, sequence)) is not None:
        found.append((message.subject, message.data))
        sequence = message.sequence + 1
    return found


async def test_events_and_spans_reach_the_board_in_batches(server: Server):
    async with Connection.open(server.url) as connection:
        await create_board(connection, "main", SMALL)

        async def publish(subject: str, body: bytes) -> None:
            await connection.publish(Outgoing(subject, body))

        journal = Journal("main", "reader", "1", publish, interval_s=0.05)
        telemetry = Telemetry("main", "reader", "1", journal.span)
        async with running(journal):
            for number in range(20):
                with telemetry.span(GET_MEMORY):
                    journal.audit("get", f"reader/docs/{number}", trace=telemetry.trace_id())

        audits = await stored(connection, audit_stream("main"), "audit.main.reader")
        spans = await stored(connection, spans_stream("main"), "spans.main.reader")
        events = [event for one in audits for event in read_audit(*one).events]
        records = [record for one in spans for record in read_spans(*one).spans]
        assert [event.what for event in events] == [f"reader/docs/{n}" for n in range(20)]
        assert [event.trace for event in events] == [record.trace for record in records]
        assert (len(audits), len(spans)) == (1, 1)


async def test_what_is_noted_while_the_broker_is_away_is_there_when_it_is_back(server: Server):
    async with Connection.open(server.url) as connection:
        await create_board(connection, "main", SMALL)

        async def publish(subject: str, body: bytes) -> None:
            await connection.publish(Outgoing(subject, body))

        journal = Journal("main", "reader", "1", publish, interval_s=0.05)
        async with running(journal):
            journal.audit("get", "before")
            await wait_until(lambda: connection.last(audit_stream("main"), "audit.>"), "the first")
            server.kill()
            for number in range(300):
                journal.audit("get", str(number))
            assert not await journal.flush()
            server.start()
            await wait_until(journal.flush, "the rest")

        messages = await stored(connection, audit_stream("main"), "audit.main.reader")
        events = [event for one in messages for event in read_audit(*one).events]
        once = [event.what for event in matching(events)]
        assert once == ["before", *map(str, range(300))]


async def test_an_event_says_who_did_what_when():
    shelf = Shelf()
    at = datetime(2026, 11, 20, tzinfo=UTC)
    journal = Journal("main", "reader", "1", shelf.publish, clock=lambda: at)

    journal.audit("get", "a/b/c", revision=4, outcome="GoneError", trace="t")
    journal.audit("delivery", "a/b/d", handler="sum")
    journal.audit("view_reads", "b.>", count=9)
    assert await journal.flush()

    assert [subject for subject, _ in shelf.messages] == ["audit.main.reader"]
    common: dict[str, Any] = {"at": at, "agent": "reader", "instance": "1"}
    assert shelf.audits == [
        AuditBatch(
            (
                AuditEvent(
                    act="get", what="a/b/c", revision=4, outcome="GoneError", trace="t", **common
                ),
                AuditEvent(act="delivery", what="a/b/d", handler="sum", **common),
                AuditEvent(act="view_reads", what="b.>", count=9, **common),
            )
        )
    ]


async def test_the_time_of_an_event_is_now():
    shelf = Shelf()
    journal = Journal("main", "reader", "1", shelf.publish)
    before = datetime.now(UTC)

    journal.audit("get", "a/b/c")
    await journal.flush()

    [event] = shelf.audits[0].events
    assert before - timedelta(seconds=1) <= event.at <= datetime.now(UTC) + timedelta(seconds=1)


async def test_what_is_noted_within_the_interval_becomes_one_message():
    shelf = Shelf()
    journal = Journal("main", "reader", "1", shelf.publish, interval_s=0.2)

    async with running(journal):
        for number in range(10):
            journal.audit("get", str(number))
            await anyio.lowlevel.checkpoint()
        await wait_until(lambda: shelf.messages, "the message")

        assert [len(batch.events) for batch in shelf.audits] == [10]


async def test_a_full_batch_does_not_wait_for_the_interval():
    shelf = Shelf()
    journal = Journal("main", "reader", "1", shelf.publish, interval_s=3600)

    async with running(journal):
        await anyio.wait_all_tasks_blocked()
        for number in range(2 * BATCH + 1):
            journal.audit("get", str(number))
        await wait_until(lambda: len(shelf.whats) == 2 * BATCH + 1, "all")

        assert [len(batch.events) for batch in shelf.audits] == [BATCH, BATCH, 1]
        journal.audit("get", "one more")
        await anyio.wait_all_tasks_blocked()
        assert len(shelf.whats) == 2 * BATCH + 1


async def test_what_comes_while_a_batch_is_written_gathers_for_the_next():
    shelf = Shelf()

    async def publish(subject: str, body: bytes) -> None:
        await shelf.publish(subject, body)
        journal.audit("get", "meanwhile")

    journal = Journal("main", "reader", "1", publish)
    journal.audit("get", "first")

    with anyio.fail_after(5):
        assert await journal.flush()

    assert shelf.whats == ["first"]


async def test_an_idle_journal_writes_nothing():
    shelf = Shelf()
    journal = Journal("main", "reader", "1", shelf.publish, interval_s=0.001)

    async with running(journal):
        await anyio.wait_all_tasks_blocked()

    assert shelf.tried == []


async def test_cancelling_writes_what_is_left():
    shelf = Shelf()
    journal = Journal("main", "reader", "1", shelf.publish, interval_s=3600)

    async with running(journal):
        await anyio.wait_all_tasks_blocked()
        journal.audit("get", "last")
        journal.span(span(agent="reader"))

    assert shelf.whats == ["last"]
    assert len(shelf.spans) == 1


async def test_what_tasks_note_while_they_are_cancelled_is_written():
    shelf = Shelf()
    journal = Journal("main", "reader", "1", shelf.publish, interval_s=3600)

    async def handler() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            journal.audit("delivery", "given back")

    async with anyio.create_task_group() as group:
        group.start_soon(journal.run)
        group.start_soon(handler)
        await anyio.wait_all_tasks_blocked()
        group.cancel_scope.cancel()

    assert shelf.whats == ["given back"]


async def test_two_boards_in_one_process_do_not_mix():
    shelf = Shelf()
    left = Journal("left", "reader", "1", shelf.publish, interval_s=0.01)
    right = Journal("right", "writer", "1", shelf.publish, interval_s=0.01)

    async with running(left, right):
        left.audit("get", "of left")
        right.audit("get", "of right")

    told = {subject: read_audit(subject, body).events[0].what for subject, body in shelf.messages}
    assert told == {"audit.left.reader": "of left", "audit.right.writer": "of right"}


async def test_what_another_thread_notes_is_written(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(journals, "IDLE_S", 0.05)
    shelf = Shelf()
    journal = Journal("main", "reader", "1", shelf.publish, interval_s=0.01)

    async with running(journal):
        await anyio.wait_all_tasks_blocked()
        await anyio.to_thread.run_sync(lambda: journal.audit("get", "from a thread"))
        await wait_until(lambda: shelf.whats == ["from a thread"], "the event")


def test_what_is_said_under_another_name_is_left_out():
    at = datetime(2026, 11, 20, tzinfo=UTC)
    own = AuditEvent(at=at, agent="a", instance="1", act="get", what="own")
    forged = AuditEvent(at=at, agent="b", instance="1", act="get", what="forged")

    audit = read_audit("audit.main.a", encode_record(AuditBatch((own, forged), 3)))
    spans = read_spans("spans.main.a", encode_record(SpanBatch((span(), span(agent="b")), 2)))

    assert (audit.events, audit.dropped) == ((own,), 3)
    assert (spans.spans, spans.dropped) == ((span(),), 2)
    assert len(build(spans.spans)) == 1
