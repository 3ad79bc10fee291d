"""What a journal does when the broker fails, hangs or refuses, and when there is too much."""

import anyio
import pytest

from blackboard import journal as journals
from blackboard.errors import BoardFullError, InvalidError, TooLargeError, UnavailableError
from blackboard.journal import BATCH, CAPACITY, MAX_BYTES, Journal, read_audit, read_spans
from blackboard.records import SpanRecord
from blackboard.telemetry import AUDIT_DROPPED, SPANS_DROPPED
from tests.shelf import Shelf, running, span
from tests.waiting import wait_until


async def test_the_last_writing_ends_in_time_when_the_broker_hangs_and_says_what_is_lost(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(journals, "FINAL_S", 0.05)

    async def hang(subject: str, body: bytes) -> None:
        await anyio.sleep_forever()

    journal = Journal("main", "reader", "1", hang, interval_s=3600)
    with anyio.fail_after(5):
        async with running(journal):
            await anyio.wait_all_tasks_blocked()
            journal.audit("get", "lost")

    assert journal.counters == {AUDIT_DROPPED.name: 1}
    (said,) = [one.__dict__ for one in caplog.records if one.msg == "journal.lost"]
    assert (said["subject"], said["items"]) == ("audit.main.reader", 1)


@pytest.mark.parametrize(
    "error", [UnavailableError("no answer"), BoardFullError("full"), OSError("reset")]
)
async def test_a_failed_batch_is_kept_and_sent_again_as_it_was(error: Exception):
    shelf = Shelf()
    shelf.broken = error
    journal = Journal("main", "reader", "1", shelf.publish, interval_s=0.01)

    async with running(journal):
        journal.audit("get", "first")
        await wait_until(lambda: len(shelf.tried) >= 2, "a second try")
        journal.audit("get", "second")
        shelf.broken = None
        await wait_until(lambda: len(shelf.whats) == 2, "both")

    assert shelf.whats == ["first", "second"]
    assert len(set(shelf.tried)) == 2


async def test_retries_keep_to_the_interval_even_when_much_waits():
    shelf = Shelf()
    shelf.broken = UnavailableError("no answer")
    journal = Journal("main", "reader", "1", shelf.publish, interval_s=3600)

    async with running(journal):
        for number in range(4 * BATCH):
            journal.audit("get", str(number))
        await wait_until(lambda: shelf.tried, "the first try")
        await anyio.wait_all_tasks_blocked()
        for number in range(4 * BATCH):
            journal.audit("get", str(number))
        await anyio.wait_all_tasks_blocked()

        assert len(shelf.tried) == 1
        shelf.broken = None


async def test_what_finds_no_room_is_counted_and_the_next_batch_says_so():
    shelf = Shelf()
    shelf.broken = UnavailableError("no answer")
    journal = Journal("main", "reader", "1", shelf.publish, capacity=10)
    for number in range(15):
        journal.audit("get", str(number))
        journal.span(span(agent="reader"))
    assert not await journal.flush()
    journal.audit("get", "one more")
    shelf.broken = None

    assert await journal.flush()
    journal.audit("get", "after")
    assert await journal.flush()

    assert [(len(batch.events), batch.dropped) for batch in shelf.audits] == [(10, 5), (1, 1)]
    assert [(len(batch.spans), batch.dropped) for batch in shelf.spans] == [(10, 5)]
    assert shelf.whats == [*map(str, range(10)), "after"]
    assert journal.counters == {AUDIT_DROPPED.name: 6, SPANS_DROPPED.name: 5}


def test_a_storm_of_events_is_bounded():
    journal = Journal("main", "reader", "1", Shelf().publish)

    for _ in range(CAPACITY + 7):
        journal.audit("get", "a/b/c")

    assert journal.counters == {AUDIT_DROPPED.name: 7}


async def test_a_batch_that_will_never_be_taken_is_lost_and_counted():
    shelf = Shelf()
    shelf.broken = TooLargeError("no")
    journal = Journal("main", "reader", "1", shelf.publish)
    journal.audit("get", "lost")
    await journal.flush()
    shelf.broken = None

    journal.audit("get", "kept")
    assert await journal.flush()

    assert [(batch.dropped, batch.events[0].what) for batch in shelf.audits] == [(1, "kept")]
    assert journal.counters == {AUDIT_DROPPED.name: 1}


async def test_after_a_refused_batch_the_following_are_written():
    shelf = Shelf()

    async def publish(subject: str, body: bytes) -> None:
        shelf.broken = None if shelf.tried else InvalidError("no")
        await shelf.publish(subject, body)

    journal = Journal("main", "reader", "1", publish)
    for number in range(BATCH + 1):
        journal.audit("get", str(number))

    assert await journal.flush()

    assert shelf.whats == [str(BATCH)]
    assert shelf.audits[0].dropped == BATCH


async def test_one_stream_that_fails_does_not_hold_up_the_other():
    shelf = Shelf()

    async def publish(subject: str, body: bytes) -> None:
        if subject.startswith("audit."):
            raise BoardFullError("full")
        await shelf.publish(subject, body)

    journal = Journal("main", "reader", "1", publish)
    journal.audit("get", "waits")
    journal.span(span(agent="reader"))

    assert not await journal.flush()
    assert len(shelf.spans) == 1


async def test_messages_stay_below_the_limit():
    shelf = Shelf()
    journal = Journal("main", "a", "1", shelf.publish)
    for _ in range(BATCH):
        journal.span(span(attributes={"blackboard.topic": "x" * 10_000}))

    assert await journal.flush()

    assert sum(len(batch.spans) for batch in shelf.spans) == BATCH
    assert max(len(body) for _, body in shelf.messages) <= MAX_BYTES
    assert len(shelf.messages) < 20


@pytest.mark.parametrize(
    "bad",
    [
        span("too large", attributes={"x": "x" * MAX_BYTES}),
        span("no JSON", attributes={"x": object()}),
        span("no Unicode \ud800"),
    ],
)
async def test_a_span_that_cannot_be_written_is_dropped_alone(bad: SpanRecord):
    shelf = Shelf()
    journal = Journal("main", "a", "1", shelf.publish)
    for record in (span("first"), bad, span("last")):
        journal.span(record)

    assert await journal.flush()

    assert [record.name for batch in shelf.spans for record in batch.spans] == ["first", "last"]
    assert sum(batch.dropped for batch in shelf.spans) == 1


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"events": 3}', b'{"spans": [{}]}'])
def test_a_message_that_is_no_batch_is_refused(body: bytes):
    with pytest.raises(InvalidError):
        read_audit("audit.main.a", body)
    with pytest.raises(InvalidError):
        read_spans("spans.main.a", body)
