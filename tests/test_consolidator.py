"""Old memories become summaries: which, how, and how that is taken back."""

from collections.abc import Callable
from datetime import timedelta

import pytest

from blackboard import Agent, Blackboard, Memory, Ref
from blackboard.consolidator.policy import Policy, Rules
from blackboard.consolidator.undoing import undo
from blackboard.errors import GoneError, InvalidError
from tests.consolidated import check, consolidator, heads, summaries, texts
from tests.recall_service import RecallService, current
from tests.settling import settled


@pytest.fixture
async def recall(board: Blackboard, start_recall: Callable[..., RecallService]) -> RecallService:
    service = start_recall()
    await current(board)
    return service


async def states(board: Blackboard, refs: list[Ref]) -> set[str]:
    found = await heads(board)
    return {found[ref.unpinned].gone or "live" for ref in refs}


def rules(**options: object) -> Rules:
    return Rules(policy=(Policy(**{"older_than": timedelta(0), "count": 10, **options}),))  # pyright: ignore[reportArgumentType]


async def test_a_group_is_condensed_and_its_sources_are_retired(
    board: Blackboard, recall: RecallService
) -> None:
    refs = await board.put_many("pumps", texts(30), session="s1", user="u1", tags={"site": "a"})

    done = await consolidator(board).once()

    made = await summaries(board)
    assert done.retired == done.condensed == 30
    assert {source.unpinned for one in made for source in one.sources} == set(refs)
    for one in made:
        assert one.kind == "summary"
        assert (one.topic, one.session, one.user) == ("pumps", "s1", "u1")
        assert one.tags["site"] == "a"
        assert one.tags["memories"] == str(len(one.sources))
        assert one.cost is not None
        assert one.cost.model == "extractive"
        assert all(source.revision for source in one.sources)
    assert await states(board, refs) == {"retired"}
    await check(board, dict(zip(refs, texts(30), strict=True)))
    hits = await board.recall("pump in Rotterdam")
    assert {hit.memory.kind for hit in hits} == {"summary"}


async def test_undo_brings_the_sources_back_and_they_stay(
    board: Blackboard, recall: RecallService
) -> None:
    refs = await board.put_many("pumps", texts(20), session="s1")
    await consolidator(board).once()
    made = await summaries(board)

    for one in made:
        await undo(board.session.desk(board.name, "consolidator"), one.ref)

    assert await states(board, refs) == {"live"}
    assert [(await board.get(ref)).content for ref in refs] == texts(20)
    with pytest.raises(GoneError):
        await board.get(made[0].ref)
    with pytest.raises(GoneError):
        await undo(board.session.desk(board.name, "consolidator"), made[0].ref)
    assert (await consolidator(board).once(now=True)).summaries == 0


async def test_only_summaries_are_undone(board: Blackboard) -> None:
    ref = await board.put("pumps", "a note")

    with pytest.raises(InvalidError, match="no summary"):
        await undo(board.session.desk(board.name, "consolidator"), ref)


async def test_by_default_what_is_young_or_few_is_left_alone(board: Blackboard) -> None:
    await board.put_many("pumps", texts(60), session="s1")

    assert (await consolidator(board, Rules()).once()).summaries == 0
    assert (await consolidator(board, rules(count=61)).once()).summaries == 0


async def test_what_is_dear_or_shared_or_ends_by_itself_is_never_condensed(
    board: Blackboard, recall: RecallService
) -> None:
    dear = await board.put_many("pumps", texts(12), session="s1", priority=0.9)
    ending = await board.put_many("pumps", texts(12), session="s1", ttl=timedelta(hours=1))
    keys = [await board.put("pumps", text, key=f"k{n}") for n, text in enumerate(texts(12))]
    own = await board.put_many("pumps", texts(12), session="s1", kind="reuse")

    done = await consolidator(board).once(now=True)

    assert done.summaries == 0
    assert await states(board, [*dear, *ending, *keys, *own]) == {"live"}


async def test_sources_are_kept_where_the_policy_says_so_and_condensed_once(
    board: Blackboard, recall: RecallService
) -> None:
    refs = await board.put_many("pumps", texts(20), session="s1")

    first = await consolidator(board, rules(sources="keep")).once()
    second = await consolidator(board, rules(sources="keep")).once()

    assert first.condensed == 20
    assert (second.summaries, second.retired) == (0, 0)
    assert await states(board, refs) == {"live"}


async def test_a_policy_of_ttl_condenses_what_ends_by_itself_and_leaves_it(
    board: Blackboard, recall: RecallService
) -> None:
    refs = await board.put_many("pumps", texts(20), session="s1", ttl=timedelta(hours=1))

    done = await consolidator(board, rules(sources="ttl")).once()

    assert (done.condensed, done.retired) == (20, 0)
    assert await states(board, refs) == {"live"}
    assert all(one.expires is None for one in await summaries(board))


async def test_groups_never_mix_labels_or_data_subjects(
    board: Blackboard, recall: RecallService
) -> None:
    for user, access in (("u1", "shared"), ("u2", "shared"), ("u1", "pii")):
        await board.put_many(
            "pumps", texts(12, f"{user}-{access}"), session="s1", user=user, access=access
        )

    await consolidator(board).once()

    made = await summaries(board)
    assert {(one.user, one.access) for one in made} == {
        ("u1", "shared"),
        ("u2", "shared"),
        ("u1", "pii"),
    }
    for one in made:
        found = {
            (memory.user, memory.access)
            for source in one.sources
            if (memory := await board.log.at_sequence(source.revision or 0, source))
        }
        assert found == {(one.user, one.access)}


async def test_summaries_and_what_was_made_from_them_are_not_condensed_again(
    board: Blackboard, recall: RecallService
) -> None:
    """The echo that fills others' stores: recalled, written down, condensed, recalled …"""
    await board.put_many("pumps", texts(20), session="s1")
    await consolidator(board).once()
    for number in range(12):
        hits = await board.recall("pump in Rotterdam", limit=3)
        notes = [f"I recall {number}: {hit.memory.content}" for hit in hits]
        await board.put("pumps", notes[0], session="s1", sources=[hits[0].memory])
    before = len(await summaries(board))

    again = await consolidator(board).once(now=True)
    asked = await consolidator(board, rules(summaries=True)).once(now=True)

    assert before > 0
    assert again.summaries == 0
    assert asked.summaries > 0


async def test_loose_memories_are_condensed_with_those_close_in_meaning(
    board: Blackboard, recall: RecallService
) -> None:
    tea = [f"Tea from Assam number {n} is black and strong and brewed at noon." for n in range(40)]
    sea = [f"The vessel number {n} sails across the ocean under white canvas." for n in range(40)]
    mixed = [text for pair in zip(tea, sea, strict=True) for text in pair]
    await board.put_many("loose", mixed)
    await current(board, board.log.reached)

    done = await consolidator(board, rules(ratio=2)).once()

    made = await summaries(board)
    assert done.retired == 80
    first = min(made, key=lambda one: one.revision)
    about = ["Tea" in str(one.content) for one in made], str(first.content)
    assert str(first.content).count("Tea") > 2 * str(first.content).count("vessel"), about


async def test_without_recall_nothing_is_condensed_and_it_says_so(board: Blackboard) -> None:
    refs = await board.put_many("pumps", texts(20), session="s1")
    one = consolidator(board)

    done = await one.once()

    assert done.summaries == 0
    assert await states(board, refs) == {"live"}
    (wait,) = one.waits.values()
    assert "waits for recall" in wait.why


async def test_handlers_hear_nothing_of_it_and_groups_keep_their_parts(
    board: Blackboard, recall: RecallService
) -> None:
    heard: list[str] = []
    merged: list[int] = []
    agent = Agent("reader")

    @agent.on("pumps")
    async def read(pump: Memory, _: Blackboard) -> None:
        heard.append(str(pump.content))

    @agent.gather("pumps", by="session", until=lambda parts: len(parts) >= 10)
    async def merge(parts: list[Memory], _: Blackboard) -> int:
        merged.append(len(parts))
        return len(parts)

    async with agent.running(board):
        await board.put_many("pumps", texts(20), session="s1")
        await settled(board, "reader--read")
        await settled(board, "reader--merge")
        before = len(heard), len(merged)

        done = await consolidator(board).once()
        await settled(board, "reader--read")
        await settled(board, "reader--merge")

    assert done.retired == 20
    assert (len(heard), len(merged)) == before
    assert before[0] == 20


async def test_a_long_memory_is_condensed_by_itself(
    board: Blackboard, recall: RecallService
) -> None:
    long = " ".join(texts(400))
    refs = await board.put_many("pumps", [long, long + " And more."], session="s1")

    done = await consolidator(board, rules(count=2)).once()

    made = await summaries(board)
    assert done.condensed == 2
    assert sorted(len(one.sources) for one in made) == [1, 1]
    assert await states(board, refs) == {"retired"}
