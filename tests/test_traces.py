"""One question's way over the board is one trace, with links where work was reused or merged."""

from blackboard import Agent, Blackboard, Memory
from blackboard.journal import read_spans
from blackboard.records import SpanRecord
from blackboard.subjects import spans_stream
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
