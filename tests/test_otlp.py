"""Spans are exported where settings or the program say; what is lost is counted."""

import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Exported, Status

from blackboard import otlp, settings
from blackboard.errors import SettingsError
from blackboard.spans import ERROR_TYPE
from blackboard.telemetry import (
    AGENT_NAME,
    CREATE_MEMORY,
    EXPORT_DROPPED,
    GET_MEMORY,
    MAKE,
    ONCE_MEMORY,
    OPERATION,
    RECORD_ID,
    STORE_ID,
)
from tests.receiver import collector, plain
from tests.recording import PRIVATE, REF, recording

PROTOCOLS = ("http/protobuf", "grpc")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_otlp_endpoint_gets_the_spans_with_resource_attributes_and_status(protocol: str):
    with collector(protocol) as found:
        to = {"otlp_endpoint": found.url, "otlp_protocol": protocol}
        reader, records = recording(**to)
        writer, _ = recording(agent="writer", **to)
        headers: dict[str, str] = {}
        with writer.span(CREATE_MEMORY, attributes={RECORD_ID: REF}):
            writer.inject(headers)
        link = f"00-{'a' * 32}-{'b' * 16}-01"
        with (
            pytest.raises(ValueError, match="Ada"),
            reader.delivery("docs.>", "sum", REF, parent=headers, links=[link]),
        ):
            raise ValueError(PRIVATE)
        writer.shutdown(timeout_s=10)
        reader.shutdown(timeout_s=10)

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
    assert set(found.paths) <= {"/v1/traces"}
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


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_spans_without_room_are_counted_and_told(
    protocol: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(otlp, "QUEUE", 10)
    monkeypatch.setattr(otlp, "BATCH", 5)
    with collector(protocol) as found:
        found.open.clear()
        telemetry, records = recording(otlp_endpoint=found.url, otlp_protocol=protocol)

        for _ in range(40):
            with telemetry.span(GET_MEMORY):
                pass
        found.open.set()
        telemetry.shutdown(timeout_s=10)

    dropped = telemetry.counted(EXPORT_DROPPED)
    # What an earlier test left may still say that it drops something, too.
    said = [one for one in caplog.records if one.name == "blackboard.otlp"]
    assert said[0].msg == "export.drops"
    assert [one.__dict__["spans"] for one in said if one.msg == "export.lost"] == [dropped]
    assert dropped >= 40 - 10 - 5
    assert len(found.spans) == 40 - dropped
    assert len(records) == 40


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_spans_that_the_endpoint_refuses_are_counted(protocol: str):
    with collector(protocol) as found:
        found.status = 400
        telemetry, _ = recording(otlp_endpoint=found.url, otlp_protocol=protocol)
        for _ in range(3):
            with telemetry.span(GET_MEMORY):
                pass
        telemetry.shutdown(timeout_s=10)

    assert telemetry.counted(EXPORT_DROPPED) == 3


def test_spans_that_a_hanging_endpoint_leaves_over_are_counted_at_the_end(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(otlp, "BATCH", 2)
    with collector() as found:
        found.open.clear()
        telemetry, _ = recording(otlp_endpoint=found.url)
        for _ in range(10):
            with telemetry.span(GET_MEMORY):
                pass
        telemetry.shutdown(timeout_s=0.3)

    assert telemetry.counted(EXPORT_DROPPED) == 8


def test_sampling_is_ours_whatever_the_variables_of_the_sdk_say(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    with collector() as found:
        telemetry, _ = recording(otlp_endpoint=found.url)
        with telemetry.span(GET_MEMORY):
            pass
        telemetry.shutdown()

    assert len(found.spans) == 1


def test_a_dead_endpoint_does_not_hold_up_the_end():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        telemetry, _ = recording(otlp_endpoint=f"http://127.0.0.1:{unused.getsockname()[1]}")
        with telemetry.span(GET_MEMORY):
            pass
        begin = time.monotonic()
        telemetry.shutdown(timeout_s=0.2)

    assert time.monotonic() - begin < 2


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
        with telemetry.span("delete_memory"):
            pass
        telemetry.shutdown()
        spans = {span.name: span for span in kept.get_finished_spans()}
        once = spans["once_memory"]
        assert once.parent.span_id == spans["job"].context.span_id
        assert spans["get_memory"].parent.span_id == once.context.span_id
        assert once.attributes["gen_ai.memory.store.id"] == "main"
        print(*sorted(spans), "|", *(record.name for record in records))
    """)

    names = "delete_memory get_memory job once_memory | get_memory once_memory delete_memory"
    assert said == names


def test_metrics_reach_the_meter_provider_of_the_program():
    said = run("""
        from opentelemetry import metrics
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader

        from blackboard.telemetry import HANDLE_SECONDS, INDEX_LAG, READS, Telemetry
        telemetry = Telemetry("main", "reader", "1", lambda record: None)
        telemetry.count(READS)
        telemetry.measure(INDEX_LAG, 9)
        reader = InMemoryMetricReader()
        metrics.set_meter_provider(MeterProvider([reader]))
        telemetry.count(READS, 2)
        telemetry.observe(HANDLE_SECONDS, 0.5)
        telemetry.measure(INDEX_LAG, 8)
        telemetry.measure(INDEX_LAG, 7)
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
        f"blackboard.index.lag {{message}} 7 {labels}",
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
