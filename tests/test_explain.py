from collections.abc import AsyncGenerator
from datetime import timedelta

import pytest

from blackboard import Blackboard, Cost, Memory, Ref
from blackboard.agent import Agent
from blackboard.errors import GoneError, NotFoundError
from blackboard.explain import Origin, explain
from tests.servers import Server


@pytest.fixture
async def board(server: Server) -> AsyncGenerator[Blackboard]:
    async with Blackboard.open(server.url, agent="alice") as opened:
        yield opened


async def _summary(board: Blackboard, section: Ref) -> Memory:
    def make() -> Memory:
        return Memory(content="short", cost=Cost(model="m1", tokens=100, seconds=2.0))

    source = await board.get(section)
    return await board.once("summary", [source], make, topic="docs.summary", session=board.agent)


async def test_a_plain_memory_tells_its_agent_and_trace(board: Blackboard):
    ref = await board.put("notes", "x", session="s1")

    explained = await explain(board, ref)

    origin = explained.memory
    assert (origin.ref, origin.agent, origin.session) == (str(ref.pinned()), "alice", "s1")
    assert origin.trace is not None
    assert len(origin.trace) == 32
    assert (origin.handler, origin.input, origin.cost, origin.sources) == (None, None, None, [])
    assert (explained.shown_by, explained.used_by, explained.complete) == ([], [], True)


async def test_a_reused_result_tells_who_shows_it_and_what_that_saved(board: Blackboard):
    section = await board.put("docs.section", "long")
    made = await _summary(board, section)
    reuses = [await _summary(board.sibling(agent=name), section) for name in ("bob", "carol")]

    explained = await explain(board, reuses[0].ref)

    shows = explained.memory.shows
    assert shows is not None
    assert (shows.ref, shows.agent) == (str(made.content_of), "alice")
    assert [source.ref for source in explained.memory.made_from] == [str(section.pinned())]
    assert [(use.agent, use.kind) for use in explained.shown_by] == [
        *(("alice", "result"), ("bob", "reuse"), ("carol", "reuse"))
    ]
    assert (explained.saved.calls, explained.saved.tokens, explained.saved.seconds) == (2, 200, 4.0)
    assert explained.total.tokens == 100


async def test_the_result_itself_is_explained_the_same(board: Blackboard):
    section = await board.put("docs.section", "long")
    made = await _summary(board, section)
    await _summary(board.sibling(agent="bob"), section)
    assert made.content_of is not None

    explained = await explain(board, made.content_of)

    assert [use.agent for use in explained.shown_by] == ["alice", "bob"]
    assert explained.memory.spent is not None
    assert explained.memory.spent.models == ["m1"]


async def test_costs_of_everything_in_the_tree_count_once(board: Blackboard):
    section = await board.put("docs.section", "long", cost=Cost(tokens=1))
    first = await _summary(board, section)
    second = await _summary(board.sibling(agent="bob"), section)
    report = await board.put("report", "r", sources=[first, second], cost=Cost(tokens=10))

    explained = await explain(board, report)

    assert explained.total.tokens == 111
    assert explained.total.calls == 3


async def test_uses_as_a_source_are_found_and_those_taken_back_are_not(board: Blackboard):
    ref = await board.put("notes", "x")
    kept = await board.put("reports", "r", sources=[ref])
    retired = await board.put("reports", "wrong", sources=[ref])
    await board.retire(retired)

    explained = await explain(board, ref)

    assert [use.ref for use in explained.used_by] == [str(kept.pinned())]


async def test_uses_of_an_earlier_revision_count_too(board: Blackboard):
    ref = await board.put("state.mode", 1, key="mode")
    use = await board.put("reports", "r", sources=[ref])
    later = await board.put("state.mode", 2, key="mode")

    explained = await explain(board, later)

    assert [one.ref for one in explained.used_by] == [str(use.pinned())]


async def test_sources_of_sources_are_followed_as_deep_as_asked(board: Blackboard):
    ref = await board.put("chain", 0)
    for number in range(1, 6):
        ref = await board.put("chain", number, sources=[ref])

    assert _depth((await explain(board, ref, depth=10)).memory) == 5
    shallow = (await explain(board, ref, depth=2)).memory
    assert _depth(shallow) == 2
    assert shallow.sources[0].sources[0].cut


def _depth(origin: Origin) -> int:
    return max((1 + _depth(source) for source in origin.sources), default=0)


async def test_a_source_that_stands_twice_is_told_once(board: Blackboard):
    root = await board.put("root", "x")
    base = await board.put("base", "x", sources=[root])
    left = await board.put("left", "x", sources=[base])
    right = await board.put("right", "x", sources=[base])
    top = await board.put("top", "x", sources=[left, right])

    origin = (await explain(board, top)).memory

    assert [source.sources[0].seen for source in origin.sources] == [False, True]
    assert [len(source.sources[0].sources) for source in origin.sources] == [1, 0]


async def test_the_number_of_memories_looked_up_is_bounded(board: Blackboard):
    parts = await board.put_many("parts", list(range(20)))
    top = await board.put("top", "x", sources=parts)

    origin = (await explain(board, top, nodes=8)).memory

    assert len(origin.sources) == 7
    assert origin.cut


async def test_the_search_for_uses_is_bounded_and_says_so(board: Blackboard):
    ref = await board.put("notes", "x")
    await board.put_many("noise", list(range(50)))
    await board.put("reports", "r", sources=[ref])

    assert not (await explain(board, ref, scan=10)).complete
    assert (await explain(board, ref, scan=100)).complete


async def test_sources_that_are_gone_are_told_as_such(board: Blackboard):
    retired = await board.put("notes", "wrong")
    passing = await board.put("notes", "short-lived", ttl=timedelta(seconds=1))
    shared = await board.put("state.mode", 0, key="mode")
    top = await board.put("top", "x", sources=[retired, passing, shared])
    await board.retire(retired)
    passed = await board.get(passing)
    for number in range(70):
        await board.put("state.mode", number, key="mode")
    while passed is not None:
        passed = await _newest(board, passing)

    states = [source.state for source in (await explain(board, top)).memory.sources]

    assert states == ["retired", "missing", "missing"]


async def _newest(board: Blackboard, ref: Ref) -> Memory | None:
    try:
        return await board.get(ref)
    except NotFoundError:
        return None


async def test_what_a_handler_made_names_handler_and_input(board: Blackboard):
    agent = Agent("shouter", version="2")

    @agent.on("words", to="shouts")
    async def shout(word: Memory, _: Blackboard) -> str:
        return word.content.upper()

    async with agent.running(board):
        word = await board.put("words", "hello")
        made = await board.wait("shouts", timeout=10)

    origin = (await explain(board, made.ref)).memory

    assert shout is not None
    assert (origin.agent, origin.handler, origin.version, origin.run) == (
        "shouter",
        "shout",
        "2",
        1,
    )
    assert origin.input == str(word.pinned())
    assert [source.ref for source in origin.sources] == [str(word.pinned())]


async def test_what_is_not_there_or_gone_is_an_error(board: Blackboard):
    with pytest.raises(NotFoundError):
        await explain(board, Ref.parse("*/state.mode/mode"))
    ref = await board.put("notes", "x")
    await board.retire(ref)
    with pytest.raises(GoneError):
        await explain(board, ref)
