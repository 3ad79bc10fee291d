"""Spans nest, travel in headers and tell no content; what happens is counted."""

import random

import anyio
import pytest
from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider

from blackboard.errors import GoneError, NotFoundError
from blackboard.records import SpanRecord
from blackboard.spans import ERROR_TYPE, MAX_LINKS, OUTCOME
from blackboard.telemetry import (
    CREATE_MEMORY,
    DELIVERY_COUNT,
    DESTINATION_TEMPLATE,
    GET_MEMORY,
    HANDLE_SECONDS,
    MAKE,
    MESSAGE_ID,
    ONCE_MEMORY,
    READS,
    RECORD_ID,
    REVISION,
    TOPIC,
    WRITES,
    Telemetry,
)
from tests.recording import PRIVATE, REF, named, recording


def test_spans_nest_in_one_trace():
    telemetry, records = recording()

    with telemetry.span(ONCE_MEMORY):
        with telemetry.span(MAKE), telemetry.span(GET_MEMORY):
            pass
        with telemetry.span(CREATE_MEMORY):
            pass

    once, make = named(records, ONCE_MEMORY), named(records, MAKE)
    assert once.parent is None
    assert make.parent == named(records, CREATE_MEMORY).parent == once.span
    assert named(records, GET_MEMORY).parent == make.span
    assert {record.trace for record in records} == {once.trace}
    assert len({record.span for record in records}) == 4
    assert once.start_ns <= make.start_ns <= make.end_ns <= once.end_ns
    assert (once.kind, make.kind) == ("client", "internal")
    assert (once.agent, once.instance) == ("reader", "instance-of-reader")


def test_a_span_after_another_begins_a_new_trace():
    telemetry, records = recording()

    with telemetry.span(GET_MEMORY):
        pass
    with telemetry.span(GET_MEMORY):
        pass

    assert records[0].trace != records[1].trace
    assert telemetry.trace_id() is None


async def test_spans_of_concurrent_tasks_do_not_nest_in_each_other():
    telemetry, records = recording()

    async def work(name: str) -> None:
        with telemetry.span(name):
            await anyio.lowlevel.checkpoint()
            with telemetry.span(f"{name} inner"):
                await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as group:
        for name in ("a", "b", "c"):
            group.start_soon(work, name)

    assert len({record.trace for record in records}) == 3
    for name in ("a", "b", "c"):
        assert named(records, f"{name} inner").parent == named(records, name).span


def test_references_become_text_and_what_is_none_is_left_out():
    telemetry, records = recording()

    with telemetry.span(GET_MEMORY, attributes={RECORD_ID: REF, TOPIC: None}) as span:
        span.set_attribute(REVISION, 7)
        span.set_attribute(MESSAGE_ID, REF)

    assert records[0].attributes == {RECORD_ID: str(REF), REVISION: 7, MESSAGE_ID: str(REF)}


def test_a_delivery_continues_the_trace_of_its_input_by_the_messaging_conventions():
    writer, written = recording()
    handler, handled = recording(agent="summarizer")
    headers: dict[str, str] = {"Bb-Agent": "reader"}

    with writer.span(CREATE_MEMORY):
        writer.inject(headers)
        trace = writer.trace_id()
    with (
        handler.delivery("docs.section.>", "summarize", REF, delivery=2, parent=headers),
        handler.span(GET_MEMORY),
    ):
        assert handler.trace_id() == trace

    process = named(handled, "process docs.section.>")
    assert (process.trace, process.parent) == (written[0].trace, written[0].span)
    assert named(handled, GET_MEMORY).parent == process.span
    assert process.kind == "consumer"
    assert process.attributes == {
        "messaging.system": "nats",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "MEM_main",
        DESTINATION_TEMPLATE: "mem.main.*.*.docs.section.>",
        "messaging.consumer.group.name": "summarizer--summarize",
        "blackboard.handler": "summarize",
        MESSAGE_ID: str(REF),
        DELIVERY_COUNT: 2,
    }


@pytest.mark.parametrize(
    "header",
    ["", "no traceparent", "00-" + "0" * 32 + "-" + "1" * 16 + "-01", "\x00" * 600, "00-zz-zz-01"],
)
def test_a_traceparent_that_cannot_be_read_begins_a_new_trace(header: str):
    telemetry, records = recording()

    with telemetry.span(GET_MEMORY, parent={"traceparent": header}):
        pass

    assert records[0].parent is None
    assert int(records[0].trace, 16) != 0


def test_outside_any_span_nothing_is_injected():
    telemetry, _ = recording()
    headers: dict[str, str] = {}

    telemetry.inject(headers)

    assert headers == {}


def test_an_unsampled_trace_is_carried_on_but_not_recorded():
    telemetry, records = recording(ratio=0.0)
    other, others = recording(agent="other", ratio=1.0)
    headers: dict[str, str] = {}

    with telemetry.span(CREATE_MEMORY) as span, telemetry.span(MAKE):
        telemetry.inject(headers)
        assert not span.recording
        trace = telemetry.trace_id()
    with other.delivery("docs.>", "handle", REF, parent=headers), other.span(GET_MEMORY):
        assert other.trace_id() == trace

    assert records == others == []
    assert headers["traceparent"].startswith(f"00-{trace}-")
    assert other.trace_id() is None


def test_a_recorded_trace_is_recorded_to_its_end_whatever_the_ratio():
    telemetry, records = recording(ratio=0.0)

    with (
        telemetry.delivery(
            "docs.>", "handle", REF, parent={"traceparent": f"00-{'1' * 32}-{'2' * 16}-01"}
        ),
        telemetry.span(GET_MEMORY),
    ):
        pass

    assert [record.trace for record in records] == ["1" * 32] * 2


def test_a_ratio_records_about_that_share_of_traces_and_each_whole():
    telemetry, records = recording(ratio=0.25)

    for _ in range(2000):
        with telemetry.span(ONCE_MEMORY), telemetry.span(MAKE):
            pass

    assert 300 < len(records) / 2 < 700
    assert len({record.trace for record in records}) == len(records) / 2


def test_an_error_is_recorded_by_its_class_and_goes_on():
    telemetry, records = recording()

    with pytest.raises(ValueError, match="Ada"), telemetry.span(MAKE):
        raise ValueError(PRIVATE)

    assert records[0].error == "ValueError"
    assert records[0].attributes == {ERROR_TYPE: "ValueError"}


def test_a_handled_error_can_be_recorded():
    telemetry, records = recording()

    with telemetry.span(MAKE) as span:
        span.fail(ValueError(PRIVATE))

    assert records[0].error == "ValueError"


def test_an_expected_error_is_an_outcome():
    telemetry, records = recording()

    with (
        pytest.raises(GoneError),
        telemetry.span(GET_MEMORY, expected=(NotFoundError, GoneError)),
    ):
        raise GoneError(str(REF), "retired")

    assert records[0].error is None
    assert records[0].attributes == {OUTCOME: "GoneError"}


async def test_a_cancelled_span_ends_and_is_no_error():
    telemetry, records = recording()

    with anyio.move_on_after(0.001), telemetry.span(GET_MEMORY):
        await anyio.sleep_forever()

    assert records[0].error is None
    assert records[0].attributes == {OUTCOME: "CancelledError"}
    assert telemetry.trace_id() is None


def test_links_name_the_spans_that_are_continued():
    telemetry, records = recording()
    good = [f"00-{number:032x}-{number:016x}-01" for number in range(1, 200)]

    with telemetry.delivery("docs.>", "merge", REF, links=["broken", *good]):
        pass

    assert records[0].links[0] == f"{1:032x}-{1:016x}"
    assert len(records[0].links) == MAX_LINKS - 1
    assert records[0].parent is None


async def test_two_boards_in_one_process_do_not_mix():
    left, lefts = recording("left")
    rights: list[SpanRecord] = []
    right = left.sibling(rights.append, board="right", agent="writer")

    async def work(telemetry: Telemetry, count: int) -> None:
        for _ in range(count):
            with telemetry.span(GET_MEMORY):
                await anyio.lowlevel.checkpoint()
                telemetry.count(READS)

    async with anyio.create_task_group() as group:
        group.start_soon(work, left, 20)
        group.start_soon(work, right, 30)

    assert (len(lefts), len(rights)) == (20, 30)
    assert {record.agent for record in lefts} == {"reader"}
    assert {record.agent for record in rights} == {"writer"}
    assert (left.counted(READS), right.counted(READS)) == (20, 30)
    assert (right.board, right.instance) == ("right", left.instance)


def test_spans_of_the_users_own_code_nest_and_do_not_break_the_boards_tree():
    telemetry, records = recording()
    users = TracerProvider(shutdown_on_exit=False).get_tracer("users")

    with telemetry.span(ONCE_MEMORY) as outer, users.start_as_current_span("chain") as between:
        between.set_attribute("prompt", PRIVATE)
        with telemetry.span(GET_MEMORY):
            pass
    assert outer.recording

    once = named(records, ONCE_MEMORY)
    assert f"{between.get_span_context().trace_id:032x}" == once.trace
    assert named(records, GET_MEMORY).parent == once.span
    assert PRIVATE not in repr(records)


def test_a_message_of_the_same_trace_is_the_parent_and_not_the_span_around():
    telemetry, records = recording()
    headers: dict[str, str] = {}

    with telemetry.span(ONCE_MEMORY):
        with telemetry.span(CREATE_MEMORY):
            telemetry.inject(headers)
        with telemetry.delivery("docs.>", "handle", REF, parent=headers):
            pass

    assert named(records, "process docs.>").parent == named(records, CREATE_MEMORY).span


def test_a_new_trace_of_the_users_own_code_is_followed():
    telemetry, records = recording()
    users = TracerProvider(shutdown_on_exit=False).get_tracer("users")

    with (
        telemetry.span(ONCE_MEMORY),
        users.start_as_current_span("job", context=Context()) as job,
        telemetry.span(GET_MEMORY),
    ):
        pass

    got, other = named(records, GET_MEMORY), job.get_span_context()
    assert (got.trace, got.parent) == (f"{other.trace_id:032x}", f"{other.span_id:016x}")


def test_a_program_that_seeds_random_gets_other_ids_each_time():
    telemetry, records = recording()

    for _ in range(2):
        random.seed(7)
        with telemetry.span(GET_MEMORY):
            pass

    assert records[0].trace != records[1].trace


def test_counters_count_from_the_start():
    telemetry, _ = recording()

    telemetry.count(READS)
    telemetry.count(READS, 4)
    telemetry.observe(HANDLE_SECONDS, 0.25)

    assert telemetry.counters == {READS.name: 5}
    assert (telemetry.counted(READS), telemetry.counted(WRITES)) == (5, 0)
