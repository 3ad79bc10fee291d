"""One question's way over the board is one trace, with links where work was reused or merged."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Exported

from blackboard import Agent, Blackboard, Memory, spans as endings, telemetry
from blackboard.journal import read_spans
from blackboard.records import SpanRecord
from blackboard.subjects import spans_stream
from tests.receiver import Collector, collector, plain
from tests.replicas import replicas
from tests.servers import Server
from tests.waiting import wait_until


async def _spans(board: Blackboard) -> list[SpanRecord]:
    """All spans on the board, after every journal of this process has written."""
    for desk in board.session.desks.values():
        await desk.journal.flush()
    found: list[SpanRecord] = []
    connection, stream, sequence = board.log.connection, spans_stream(board.name), 1
    while message := await connection.next_after(stream, f"spans.{board.name}.>", sequence):
        found += read_spans(message.subject, message.data).spans
        sequence = message.sequence + 1
    return found


async def test_map_shuffle_and_reduce_are_one_trace_linked_to_what_was_reused(
    board: Blackboard,
) -> None:
    mapper, reducer = Agent("mapper"), Agent("reducer")

    @mapper.on("docs.section", to="docs.summary")
    async def summarize(section: Memory, bound: Blackboard) -> Memory:
        return await bound.once("summary", section.content, section.content.upper)

    @reducer.gather("docs.summary", until=2, to="docs.report")
    async def report(summaries: list[Memory], _: Blackboard) -> str:
        return " ".join(summary.content for summary in summaries)

    async with mapper.running(board), reducer.running(board):
        with board.telemetry.span("ask") as first:
            await board.put_many("docs.section", ["one", "two"], session="first")
            first_trace = board.telemetry.trace_id()
        assert (await board.wait("docs.report", session="first", timeout=10)).content
        with board.telemetry.span("ask"):
            await board.put_many("docs.section", ["one", "three"], session="second")
            second_trace = board.telemetry.trace_id()
        assert (await board.wait("docs.report", session="second", timeout=10)).content
    del first

    async def merges() -> list[SpanRecord]:
        return [span for span in await _spans(board) if span.name == "merge"]

    await wait_until(merges, "the spans are written")
    spans = await _spans(board)
    for trace in (first_trace, second_trace):
        own = [span for span in spans if span.trace == trace]
        names = {span.name for span in own}
        assert {"ask", "create_memory", "process docs.section", "once_memory"} <= names
        assert {"process docs.summary", "merge", "commit"} <= names
        ids = {span.span for span in own}
        assert [span.name for span in own if span.parent not in ids] == ["ask"]
    merge = next(span for span in spans if span.name == "merge" and span.trace == first_trace)
    assert len(merge.links) == 2
    reused = [span for span in spans if span.attributes.get("blackboard.reused") is True]
    assert [span.trace for span in reused] == [second_trace]
    assert [link.split("-")[0] for link in reused[0].links] == [first_trace]


# Over real processes, as a collector sees it

NAMES = {
    *("create_memory", "process docs.section.>", "once_memory", "make", "commit"),
    *("process docs.summary", "merge", "wait_memory"),
}
KEYS = {
    value
    for module in (telemetry, endings)
    for name, value in vars(module).items()
    if name.isupper() and isinstance(value, str)
}
"""What the library declares; nothing else is an attribute."""
SECRETS = ("Ada", "ADA", "Grace", "GRACE", "Alan", "ALAN", "Mary", "MARY")


def _is_root(span: Exported) -> bool:
    return not span.parent_span_id


def _of_trace(found: Collector, trace: bytes) -> dict[bytes, tuple[dict[str, Any], Exported]]:
    return {span.span_id: (about, span) for about, span in found.spans if span.trace_id == trace}


def _check_tree(found: Collector, trace: bytes) -> None:
    """One root, nobody without a parent, over the processes of three agents."""
    spans = _of_trace(found, trace)
    roots = [span.name for _, span in spans.values() if _is_root(span)]
    assert roots == ["create_memory"]
    for _, span in spans.values():
        assert _is_root(span) or span.parent_span_id in spans, span.name
    assert {about["service.name"] for about, _ in spans.values()} == {"asker", "mapper", "reducer"}
    names = Counter(span.name for _, span in spans.values())
    assert names.keys() == NAMES - {"wait_memory"}
    assert (names["process docs.section.>"], names["process docs.summary"]) == (3, 3)
    assert (names["once_memory"], names["merge"]) == (3, 1)


def _check_attributes(found: Collector) -> None:
    kinds = {"process": Exported.SPAN_KIND_CONSUMER, "memory": Exported.SPAN_KIND_CLIENT}
    for about, span in found.spans:
        said = plain(span.attributes)
        assert span.name in NAMES
        assert said.keys() <= KEYS
        assert said["gen_ai.memory.store.id"] == "main"
        assert said["gen_ai.agent.name"] == about["service.name"]
        if span.name.endswith("_memory"):
            assert span.kind == kinds["memory"]
            assert said["gen_ai.operation.name"] == span.name
        if span.name.startswith("process "):
            assert span.kind == kinds["process"]
            assert (said["messaging.system"], said["messaging.destination.name"]) == (
                "nats",
                "MEM_main",
            )
            assert said["messaging.operation.type"] == said["messaging.operation.name"] == "process"
            assert said["messaging.consumer.group.name"].startswith(f"{about['service.name']}--")
            assert said["messaging.message.id"].count("@") == 1
    text = str([span for _, span in found.spans])
    assert [word for word in SECRETS if word in text] == []


async def _ask(board: Blackboard, session: str, sections: list[str]) -> str:
    """Put a question's sections; returns the report."""
    await board.put_many("docs.section.one", sections, session=session)
    return (await board.wait("docs.report", session=session, timeout=20)).content


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
async def test_a_questions_way_over_processes_is_one_trace_at_a_collector(
    protocol: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with collector(protocol) as found, replicas(server.url, tmp_path) as start:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
        agents = [start("map_sections"), start("map_sections"), start("reduce_summaries")]
        async with Blackboard.open(server.url, agent="asker") as board:
            for agent in agents:
                await agent.until("agent.running")
            first = await _ask(board, "first", ["Ada", "Grace", "Alan"])
            second = await _ask(board, "second", ["Ada", "Mary", "Alan"])
        for agent in agents:
            agent.terminate()
        assert [await agent.code() for agent in agents] == [0, 0, 0]

    assert (first, second) == ("ADA ALAN GRACE", "ADA ALAN MARY")
    roots = [span for _, span in found.spans if span.name == "create_memory" and _is_root(span)]
    assert len(roots) == 2
    traces = [one.trace_id for one in sorted(roots, key=lambda span: span.start_time_unix_nano)]
    for trace in traces:
        _check_tree(found, trace)
        spans = _of_trace(found, trace)
        (merge,) = [span for _, span in spans.values() if span.name == "merge"]
        parts = [spans[link.span_id][1].name for link in merge.links]
        assert len(parts) == 3
    _check_attributes(found)
    # What the second question did not pay for leads to where it was made: the first one's work.
    reused = [
        span
        for _, span in _of_trace(found, traces[1]).values()
        if plain(span.attributes).get("blackboard.reused")
    ]
    assert len(reused) == 2
    original = _of_trace(found, traces[0])
    for span in reused:
        (link,) = span.links
        assert link.trace_id == traces[0]
        assert original[link.span_id][1].name in {"once_memory", "make"}


async def test_every_way_to_read_has_a_span(board: Blackboard) -> None:
    ref = await board.put("docs", "one")
    await board.get(ref)
    async with board.watch("docs", since="start") as memories:
        assert (await anext(memories)).content == "one"
    async with board.replay("docs") as memories:
        assert [memory.content async for memory in memories] == ["one"]
    async with board.view("docs") as view:
        assert len(view) == 1
    await board.wait("docs", timeout=5)

    reads = {span.name: span for span in await _spans(board)}
    assert {"get_memory", "watch_memory", "replay_memory", "view_memory", "wait_memory"} <= set(
        reads
    )
    assert reads["watch_memory"].attributes["blackboard.topic"] == "docs"
    assert all(span.error is None for span in reads.values())
