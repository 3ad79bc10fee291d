"""The board by example: put, get, revise, shared state, references, blobs, siblings."""

from datetime import UTC, datetime, timedelta

import pytest

from blackboard import Blackboard, Cost, Memory, Ref
from blackboard.blobs import CHUNK_BYTES
from blackboard.errors import (
    ConflictError,
    GoneError,
    HistoryGoneError,
    InvalidError,
    LabelError,
    NotFoundError,
    TooLargeError,
)
from blackboard.jetstream import Outgoing
from blackboard.subjects import blob_stream
from tests.servers import Server


async def test_what_was_put_can_be_got(board: Blackboard) -> None:
    ref = await board.put(
        "reports.q3",
        {"revenue": 12},
        kind="result",
        session="s1",
        user="customer-42",
        tags={"team": "a"},
        priority=0.8,
        cost=Cost("m", 3, 0.1),
        happened=datetime(2026, 9, 30, tzinfo=UTC),
    )

    memory = await board.get(ref)

    assert memory.content == {"revenue": 12}
    assert (memory.kind, memory.session, memory.user) == ("result", "s1", "customer-42")
    assert (memory.tags, memory.priority) == ({"team": "a"}, 0.8)
    assert (memory.agent, memory.access, memory.topic) == ("alice", "shared", "reports.q3")
    assert memory.revision == ref.written
    assert memory.stored is not None
    assert abs(datetime.now(UTC) - memory.stored) < timedelta(seconds=5)
    assert memory.ref == ref


async def test_a_reference_works_as_text(board: Blackboard) -> None:
    ref = await board.put("t", "x")

    assert (await board.get(str(ref))).content == "x"
    assert (await board.get(str(ref.pinned()))).content == "x"


async def test_a_pinned_reference_shows_its_revision(board: Blackboard) -> None:
    first = await board.put("t", "one")
    second = await board.revise(first, "two")

    assert (await board.get(first)).content == "two"
    assert (await board.get(first.pinned())).content == "one"
    assert (await board.get(second.pinned())).content == "two"


async def test_a_revision_keeps_the_other_fields(board: Blackboard) -> None:
    ref = await board.put("t", "one", tags={"a": "b"}, session="s", kind="result")

    await board.revise(ref, "two")

    memory = await board.get(ref)
    assert (memory.content, memory.tags, memory.session, memory.kind) == (
        "two",
        {"a": "b"},
        "s",
        "result",
    )


async def test_a_revision_of_what_moved_is_a_conflict(board: Blackboard) -> None:
    ref = await board.put("t", "one")
    seen = await board.get(ref)
    await board.revise(ref, "two")

    with pytest.raises(ConflictError):
        await board.revise(ref, "three", expected=seen.revision)
    assert (await board.get(ref)).content == "two"


async def test_only_its_agent_may_revise_a_memory(board: Blackboard) -> None:
    ref = await board.put("t", "mine")
    bob = board.sibling(agent="bob")

    for attempt in (bob.revise(ref, "x"), bob.retire(ref), bob.reclassify(ref, "pii")):
        with pytest.raises(InvalidError, match="belongs to agent 'alice'"):
            await attempt
    assert (await bob.get(ref)).content == "mine"


async def test_every_agent_may_revise_shared_state(board: Blackboard) -> None:
    bob = board.sibling(agent="bob")
    ref = await board.put("plan", ["a"], key="today")

    await bob.put("plan", ["a", "b"], key="today")

    memory = await board.get(ref)
    assert (memory.content, memory.agent) == (["a", "b"], "bob")
    assert str(ref) == "*/plan/today"


async def test_a_key_can_be_created_once(board: Blackboard) -> None:
    bob = board.sibling(agent="bob")
    ref = await board.put("plan", 1, key="k", expected=0)

    with pytest.raises(ConflictError):
        await bob.put("plan", 2, key="k", expected=0)
    moved = await bob.put("plan", 3, key="k", expected=ref.written)
    with pytest.raises(ConflictError):
        await board.put("plan", 4, key="k", expected=ref.written)

    assert (await board.get(moved)).content == 3


async def test_a_retired_key_counts_as_absent(board: Blackboard) -> None:
    bob = board.sibling(agent="bob")
    ref = await board.put("plan", 1, key="k", access="pii")
    await board.retire(ref)

    again = await bob.put("plan", 2, key="k", expected=0)

    assert (await board.get(again)).access == "shared"


async def test_a_key_lies_under_one_label(board: Blackboard) -> None:
    ref = await board.put("plan", 1, key="k", access="pii")

    with pytest.raises(LabelError):
        await board.put("plan", 2, key="k", access="shared")
    await board.put("plan", 3, key="k")

    assert (await board.get(ref)).access == "pii"


async def test_update_sees_what_is_there_and_writes_what_is_returned(board: Blackboard) -> None:
    async def more(memory: Memory | None) -> int:
        return 1 if memory is None else memory.content + 1

    first = await board.update("*/state.count/n", more)
    second = await board.update("*/state.count/n", more)

    assert (first.content, second.content) == (1, 2)
    assert second.revision > first.revision
    assert (await board.get("*/state.count/n")).content == 2


async def test_update_must_return_something(board: Blackboard) -> None:
    with pytest.raises(InvalidError, match="must return"):
        await board.update("*/t/k", lambda _: None)
    with pytest.raises(NotFoundError):
        await board.get("*/t/k")


async def test_sources_are_pinned_to_what_they_were(board: Blackboard) -> None:
    source = await board.put("t", "one")
    seen = await board.get(source)
    await board.revise(source, "two")

    ref = await board.put("t", "derived", sources=[seen, source.unpinned, str(source.unpinned)])

    sources = (await board.get(ref)).sources
    assert all(one.revision is not None for one in sources)
    assert sources[0] == seen.pinned
    with pytest.raises(NotFoundError):
        await board.put("t", "x", sources=["*/t/never"])


async def test_many_are_put_in_order(board: Blackboard) -> None:
    refs = await board.put_many("t", [*range(2_300), Memory(content="x", tags={"a": "b"})])

    revisions = [ref.written for ref in refs]
    assert revisions == sorted(revisions, key=lambda revision: revision or 0)
    assert (await board.get(refs[1_500])).content == 1_500
    assert (await board.get(refs[-1])).tags == {"a": "b"}
    assert await board.put_many("t", []) == []


async def test_large_content_is_cut_into_chunks_and_read_back_whole(board: Blackboard) -> None:
    content = {"text": "ü" * (3 * CHUNK_BYTES)}

    ref = await board.put("t", content)
    bob = board.sibling(agent="bob")

    memory = await bob.get(ref)
    assert memory.content == content
    assert memory.blob is not None
    assert memory.blob.chunks > 5
    await board.revise(ref, "small now")
    assert (await bob.get(ref)).content == "small now"
    assert (await bob.get(ref.pinned())).content == content


async def test_a_chunk_that_was_changed_is_noticed(board: Blackboard) -> None:
    ref = await board.put("t", "x" * (2 * CHUNK_BYTES))
    blob = (await board.get(ref)).blob
    assert blob is not None
    subject = f"blob.{board.name}.shared.alice.{blob.id}.0"
    await board.log.connection.publish(Outgoing(subject, b"y" * CHUNK_BYTES))

    with pytest.raises(InvalidError, match="not what its author stored"):
        await board.get(ref)


async def test_a_missing_chunk_is_gone(board: Blackboard) -> None:
    ref = await board.put("t", "x" * (2 * CHUNK_BYTES))
    await board.log.connection.delete(blob_stream(board.name), 1)

    with pytest.raises(GoneError):
        await board.get(ref)


async def test_content_above_the_limit_is_refused(
    board: Blackboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blackboard.codec.MAX_CONTENT_BYTES", 1_000_000)

    with pytest.raises(TooLargeError, match="limit is 1000000"):
        await board.put("t", "x" * 1_000_001)


async def test_the_past_can_be_read(board: Blackboard) -> None:
    ref = await board.put("t", "one")
    first = await board.get(ref)
    await board.revise(ref, "two")
    assert first.stored is not None

    assert (await board.get(ref, at=first.stored)).content == "one"
    assert (await board.get(ref, at=datetime.now(UTC))).content == "two"
    with pytest.raises(HistoryGoneError):
        await board.get(ref, at=first.stored - timedelta(hours=1))


async def test_history_ends_at_64_revisions(board: Blackboard) -> None:
    ref = await board.put("t", 0)
    for number in range(1, 66):
        await board.revise(ref, number)

    with pytest.raises(HistoryGoneError, match="the newest is"):
        await board.get(ref.pinned())


async def test_a_sibling_board_is_made_on_first_use(board: Blackboard) -> None:
    other = board.sibling(board="second", agent="bob")

    with pytest.raises(NotFoundError):
        await other.get("*/t/k")
    ref = await other.put("t", "x", key="k")

    assert (await other.get(ref)).content == "x"
    with pytest.raises(NotFoundError):
        await board.get(ref)


async def test_a_board_that_is_not_there_is_not_made_for_a_reader(server: Server) -> None:
    async with Blackboard.open(server.url, board="real"):
        pass

    with pytest.raises(NotFoundError, match="there is: real"):
        async with Blackboard.open(server.url, board="mistyped", create=False):
            pass


async def test_answers_reach_those_who_ask(board: Blackboard) -> None:
    with pytest.raises(TimeoutError):
        await board.ask("questions.billing", "why?", timeout=0.2)
    async with board.replay("questions.>") as questions:
        asked = [question async for question in questions]

    assert [(question.kind, question.content) for question in asked] == [("request", "why?")]


@pytest.mark.parametrize(
    ("topic", "arguments"),
    [
        ("once.x", {}),
        ("answers.q", {}),
        ("a..b", {}),
        ("a b", {}),
        ("t", {"key": "a.b"}),
        ("t", {"key": "0" * 32}),
        ("t", {"access": "a.b"}),
        ("t", {"ttl": timedelta(0)}),
        ("t", {"ttl": 3600}),
        ("t", {"ttl": "1h"}),
        ("t", {"ttl": timedelta(milliseconds=999)}),
        ("t", {"priority": 2.0}),
        ("t", {"tags": {"a": 1}}),
        ("t", {"tags": 5}),
        ("t", {"tags": ["a"]}),
        ("t", {"sources": 5}),
        ("t", {"links": None}),
        ("t", {"sources": ["nonsense"]}),
        ("t", {"expected": 3}),
    ],
)
async def test_bad_arguments_are_refused_before_anything_is_stored(
    board: Blackboard, topic: str, arguments: dict[str, object]
) -> None:
    with pytest.raises(InvalidError):
        await board.put(topic, "x", **arguments)  # pyright: ignore[reportArgumentType]

    info = await board.log.connection.stream(board.log.stream)
    assert info is not None
    assert info.state.messages == 0


async def test_bad_names_are_refused(board: Blackboard, server: Server) -> None:
    for board_name, agent in (("a.b", "x"), ("b", "X"), ("b", "a--b"), ("", "")):
        with pytest.raises(InvalidError):
            board.sibling(board_name or "a b", agent or "-")
    with pytest.raises(InvalidError):
        async with Blackboard.open(server.url, board="no good"):
            pass
    for reference in ("", "x", "a/b", 7):
        with pytest.raises(InvalidError):
            await board.get(reference)  # pyright: ignore[reportArgumentType]
    missing = Ref("alice", "t", "0" * 32)
    for attempt in (board.get(missing), board.revise(missing, 1), board.retire(missing)):
        with pytest.raises(NotFoundError):
            await attempt
