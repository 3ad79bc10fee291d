"""Spans nest, travel in headers, tell no content, and are exported; what is lost is counted."""

import random
import socket
import subprocess
import sys
import textwrap
import time
from concurrent import futures
from pathlib import Path
from typing import Any

import anyio
import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Exported, Status
from opentelemetry.sdk.trace import TracerProvider

from blackboard import otlp, settings
from blackboard.errors import GoneError, NotFoundError, SettingsError
from blackboard.records import SpanRecord
from blackboard.spans import ERROR_TYPE, MAX_LINKS, OUTCOME
from blackboard.subjects import Ref
from blackboard.telemetry import (
    AGENT_NAME,
    CREATE_MEMORY,
    DELIVERY_COUNT,
    DESTINATION_TEMPLATE,
    EXPORT_DROPPED,
    GET_MEMORY,
    HANDLE_SECONDS,
    MAKE,
    MESSAGE_ID,
    ONCE_MEMORY,
    OPERATION,
    READS,
    RECORD_ID,
    REVISION,
    STORE_ID,
    TOPIC,
    WRITES,
    Telemetry,
)
from tests.receiver import collector, plain

REF = Ref("reader", "docs.section", "0" * 32, 7)
PRIVATE = "the patient's name is Ada"


def recording(
    board: str = "main", agent: str = "reader", **options: Any
) -> tuple[Telemetry, list[SpanRecord]]:
    records: list[SpanRecord] = []
    return Telemetry(board, agent, f"instance-of-{agent}", records.append, **options), records


def named(records: list[SpanRecord], name: str) -> SpanRecord:
    [found] = [record for record in records if record.name == name]
    return found


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


# Export


def test_an_otlp_endpoint_gets_the_spans_with_resource_attributes_and_status():
    with collector() as found:
        reader, records = recording(otlp_endpoint=found.url)
        writer, _ = recording(agent="writer", otlp_endpoint=found.url)
        headers: dict[str, str] = {}
        with writer.span(CREATE_MEMORY, attributes={RECORD_ID: REF}):
            writer.inject(headers)
        link = f"00-{'a' * 32}-{'b' * 16}-01"
        with (
            pytest.raises(ValueError, match="Ada"),
            reader.delivery("docs.>", "sum", REF, parent=headers, links=[link]),
        ):
            raise ValueError(PRIVATE)
        writer.shutdown()
        reader.shutdown()

    about, created = found.span(CREATE_MEMORY)
    assert (about["service.name"], about["service.instance.id"]) == ("writer", "instance-of-writer")
    assert created.kind == Exported.SPAN_KIND_CLIENT
    assert plain(created.attributes) == {
        STORE_ID: "main",
        "gen_ai.agent.id": "writer",
        AGENT_NAME: "writer",
        OPERATION: CREATE_MEMORY,
        RECORD_ID: str(REF),
    }
    about, processed = found.span("process docs.>")
    assert about["service.name"] == "reader"
    assert processed.trace_id == created.trace_id
    assert processed.parent_span_id == created.span_id
    assert processed.kind == Exported.SPAN_KIND_CONSUMER
    assert processed.status.code == Status.STATUS_CODE_ERROR
    assert plain(processed.attributes)[ERROR_TYPE] == "ValueError"
    assert [one.trace_id.hex() for one in processed.links] == ["a" * 32]
    assert set(found.paths) == {"/v1/traces"}
    assert PRIVATE not in str(found.spans)
    # The board's record is of the same span.
    assert records[0].trace == processed.trace_id.hex()
    assert records[0].span == processed.span_id.hex()
    assert records[0].parent == created.span_id.hex()
    assert records[0].start_ns == processed.start_time_unix_nano
    assert records[0].end_ns == processed.end_time_unix_nano


def test_an_unsampled_trace_is_not_exported():
    with collector() as found:
        telemetry, _ = recording(otlp_endpoint=found.url, ratio=0.0)
        sampled, _ = recording(otlp_endpoint=found.url)
        with telemetry.span(ONCE_MEMORY), telemetry.span(MAKE):
            pass
        with sampled.span(GET_MEMORY):
            pass
        telemetry.shutdown()
        sampled.shutdown()

    assert [span.name for _, span in found.spans] == [GET_MEMORY]


def test_after_the_shutdown_of_one_the_other_still_exports():
    with collector() as found:
        first, _ = recording(otlp_endpoint=found.url)
        second, records = recording(agent="second", otlp_endpoint=found.url)
        first.shutdown()
        first.shutdown()
        with second.span(GET_MEMORY):
            pass
        second.shutdown()
        with second.span(MAKE):
            pass

    assert [span.name for _, span in found.spans] == [GET_MEMORY]
    assert [record.name for record in records] == [GET_MEMORY, MAKE]


def test_spans_without_room_are_counted(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(otlp, "QUEUE", 10)
    monkeypatch.setattr(otlp, "BATCH", 5)
    with collector() as found:
        found.open.clear()
        telemetry, records = recording(otlp_endpoint=found.url)

        for _ in range(40):
            with telemetry.span(GET_MEMORY):
                pass
        found.open.set()
        telemetry.shutdown()

    dropped = telemetry.counted(EXPORT_DROPPED)
    assert dropped >= 40 - 10 - 5
    assert len(found.spans) == 40 - dropped
    assert len(records) == 40


def test_spans_that_the_endpoint_refuses_are_counted():
    with collector() as found:
        found.status = 400
        telemetry, _ = recording(otlp_endpoint=found.url)
        for _ in range(3):
            with telemetry.span(GET_MEMORY):
                pass
        telemetry.shutdown()

    assert telemetry.counted(EXPORT_DROPPED) == 3


def test_a_dead_endpoint_does_not_hold_up_the_end():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        telemetry, _ = recording(otlp_endpoint=f"http://127.0.0.1:{unused.getsockname()[1]}")
        with telemetry.span(GET_MEMORY):
            pass
        begin = time.monotonic()
        telemetry.shutdown(timeout_s=0.2)

    assert time.monotonic() - begin < 2


def test_spans_are_exported_by_grpc():
    taken: list[Any] = []

    class Service(trace_service_pb2_grpc.TraceServiceServicer):
        def Export(  # noqa: N802 - its name on the wire
            self, request: ExportTraceServiceRequest, context: object
        ) -> ExportTraceServiceResponse:
            taken.extend(request.resource_spans)
            return ExportTraceServiceResponse()

    server = grpc.server(futures.ThreadPoolExecutor(1))
    add: Any = trace_service_pb2_grpc.add_TraceServiceServicer_to_server  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    add(Service(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        telemetry, _ = recording(otlp_endpoint=f"http://127.0.0.1:{port}", otlp_protocol="grpc")
        with telemetry.span(GET_MEMORY):
            pass
        telemetry.shutdown(timeout_s=10)
    finally:
        server.stop(0).wait()

    assert taken[0].scope_spans[0].spans[0].name == GET_MEMORY


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_a_missing_exporter_names_the_command_that_installs_it(
    protocol: str, monkeypatch: pytest.MonkeyPatch
):
    for kind in ("http", "grpc"):
        module = f"opentelemetry.exporter.otlp.proto.{kind}.trace_exporter"
        monkeypatch.setitem(sys.modules, module, None)

    with pytest.raises(SettingsError, match=r"pip install 'blackboard-agents\[otlp\]'"):
        recording(otlp_endpoint="http://127.0.0.1:4318", otlp_protocol=protocol)


@pytest.mark.parametrize(
    ("endpoint", "protocol", "said"),
    [
        ("127.0.0.1:4318", "http/protobuf", "is no URL"),
        ("ftp://collector", "http/protobuf", "is no URL"),
        ("http://collector:4318", "http/json", "http/json"),
    ],
)
def test_export_settings_that_cannot_be_used_are_refused(endpoint: str, protocol: str, said: str):
    with pytest.raises(SettingsError, match=said):
        recording(otlp_endpoint=endpoint, otlp_protocol=protocol)


@pytest.mark.parametrize(
    ("variables", "endpoint", "protocol"),
    [
        ({}, None, "http/protobuf"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:1/"}, "http://c:1/v1/traces", "http/protobuf"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c/a"}, "http://c/a/v1/traces", "http/protobuf"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c/x"}, "http://c/x", "http/protobuf"),
        (
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317",
                "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
            },
            "http://c:4317",
            "grpc",
        ),
    ],
)
def test_the_usual_variables_say_where_spans_go(
    variables: dict[str, str], endpoint: str | None, protocol: str
):
    loaded = settings.load(variables)

    assert (loaded.otlp_endpoint, loaded.otlp_protocol) == (endpoint, protocol)


# In a process of its own, because providers are installed once a process


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[1],
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_without_an_endpoint_the_sdk_is_not_loaded():
    loaded = run("""
        import sys
        from blackboard.telemetry import Telemetry
        records = []
        with Telemetry("main", "reader", "1", records.append).span("get_memory"):
            pass
        print(len(records), "opentelemetry.sdk" in sys.modules)
    """)

    assert loaded == "1 False"


def test_a_provider_that_the_program_installed_is_used_with_its_sampler():
    said = run("""
        from opentelemetry import trace
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Decision, Sampler, SamplingResult

        class NoMake(Sampler):
            def should_sample(self, parent_context, trace_id, name, kind, attributes, links):
                if name == "make":
                    return SamplingResult(Decision.DROP)
                return SamplingResult(Decision.RECORD_AND_SAMPLE, attributes)
            def get_description(self):
                return "no make"

        kept = InMemorySpanExporter()
        provider = TracerProvider(sampler=NoMake())
        provider.add_span_processor(SimpleSpanProcessor(kept))
        trace.set_tracer_provider(provider)

        from blackboard.telemetry import Telemetry
        records = []
        # The endpoint is the program's business then: nothing listens there, and nothing is sent.
        telemetry = Telemetry("main", "reader", "1", records.append, ratio=0.0,
                              otlp_endpoint="http://127.0.0.1:9")
        with trace.get_tracer("users").start_as_current_span("job"):
            with telemetry.span("once_memory"):
                with telemetry.span("make"):
                    pass
                with telemetry.span("get_memory"):
                    pass
        telemetry.shutdown()
        spans = {span.name: span for span in kept.get_finished_spans()}
        once = spans["once_memory"]
        assert once.parent.span_id == spans["job"].context.span_id
        assert spans["get_memory"].parent.span_id == once.context.span_id
        assert once.attributes["gen_ai.memory.store.id"] == "main"
        print(*sorted(spans), "|", *(record.name for record in records))
    """)

    assert said == "get_memory job once_memory | get_memory once_memory"


def test_metrics_reach_the_meter_provider_of_the_program():
    said = run("""
        from opentelemetry import metrics
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader

        from blackboard.telemetry import HANDLE_SECONDS, READS, Telemetry
        telemetry = Telemetry("main", "reader", "1", lambda record: None)
        telemetry.count(READS)
        reader = InMemoryMetricReader()
        metrics.set_meter_provider(MeterProvider([reader]))
        telemetry.count(READS, 2)
        telemetry.observe(HANDLE_SECONDS, 0.5)
        scope = reader.get_metrics_data().resource_metrics[0].scope_metrics[0]
        for metric in scope.metrics:
            [point] = metric.data.data_points
            value = getattr(point, "value", None) or point.sum
            print(metric.name, metric.unit, value, dict(point.attributes))
    """)

    labels = {STORE_ID: "main", AGENT_NAME: "reader"}
    assert said.splitlines() == [
        f"blackboard.reads {{memory}} 2 {labels}",
        f"blackboard.handle.duration s 0.5 {labels}",
    ]


def test_with_the_sdk_disabled_the_board_still_gets_its_spans(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    with collector() as found:
        telemetry, records = recording(otlp_endpoint=found.url)
        with telemetry.span(GET_MEMORY):
            pass
        telemetry.shutdown()

    assert len(records) == 1
    assert found.spans == []
