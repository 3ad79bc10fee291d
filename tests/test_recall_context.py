"""What a memory borrows of those said before it: of whom, and for how long."""

import random
from collections.abc import Awaitable, Callable
from datetime import timedelta

import anyio
import pytest

from blackboard import Blackboard, Ref
from tests.recall_service import RecallService, current, entries, told
from tests.waiting import wait_until


async def named(board: Blackboard, word: str) -> set[Ref]:
    """What is found by a word, its own or borrowed."""
    hits = await board.recall(word, limit=50, access="shared")
    return {hit.memory.ref for hit in hits if "words" in hit.why}


async def conversation(board: Blackboard, session: str, first: str) -> list[Ref]:
    texts = (first, "what came next", "and then", "and the end")
    return [await board.put("talk", text, session=session) for text in texts]


async def test_a_memory_is_found_by_words_said_before_it_in_its_company_only(
    board: Blackboard, start_recall: Callable[..., RecallService]
) -> None:
    start_recall()
    refs = await conversation(board, "s1", "a zebra crossing")
    await board.put("talk", "another session", session="s2")
    await board.put("talk.secret", "another topic", session="s1")
    await board.put("talk", "another label", session="s1", access="pii")
    await board.put("talk", "about somebody", session="s1", user="u1")
    await board.put("talk", "no session")

    assert await named(board, "zebra") == set(refs[:3])
    hits = await board.recall("zebra", limit=50)
    assert {hit.memory.ref for hit in hits if "words" in hit.why} == set(refs[:3])


async def retired(board: Blackboard, ref: Ref) -> None:
    await board.retire(ref)


async def revised(board: Blackboard, ref: Ref) -> None:
    await board.revise(ref, "a crossing of asses")


async def moved(board: Blackboard, ref: Ref) -> None:
    await board.reclassify(ref, "pii")


@pytest.mark.parametrize("change", [retired, revised, moved])
async def test_the_words_of_what_was_taken_back_are_gone_from_those_that_borrowed_them(
    board: Blackboard,
    start_recall: Callable[..., RecallService],
    change: Callable[[Blackboard, Ref], Awaitable[None]],
) -> None:
    service = start_recall()
    early = await board.put("talk", "an aardvark", session="s1")
    refs = await conversation(board, "s1", "a zebra crossing")
    assert await named(board, "zebra") == set(refs[:3])

    await change(board, refs[0])

    assert await named(board, "zebra") == set()
    # The next in line borrow of what is before them now.
    assert await named(board, "aardvark") == {early, *refs[1:3]}
    late = await board.put("talk", "later", session="s1")
    assert late in await named(board, "end")
    await current(board, board.log.reached)
    service.stop()
    scratch = start_recall("scratch")
    await current(board)
    scratch.stop()
    kept, fresh = await entries(service.data), await entries(scratch.data)
    assert {ref: told(entry) for ref, entry in kept.items()} == {
        ref: told(entry) for ref, entry in fresh.items()
    }


@pytest.mark.timeout(90)
async def test_what_expires_takes_its_words_along(
    board: Blackboard, start_recall: Callable[..., RecallService]
) -> None:
    start_recall()
    await current(board)
    await board.put("talk", "a zebra", session="s1", ttl=timedelta(seconds=8))
    after = await board.put("talk", "what came next", session="s1")
    assert after in await named(board, "zebra")

    async def forgotten() -> bool:
        return not await named(board, "zebra")

    await wait_until(forgotten, "nobody has its words", timeout=30)


@pytest.mark.timeout(120)
async def test_no_words_are_left_however_often_the_service_is_killed(
    board: Blackboard, start_recall: Callable[..., RecallService]
) -> None:
    chance = random.Random(5)
    for number in range(5):
        service = start_recall()
        talks = [await conversation(board, f"s{number}-{n}", "a zebra") for n in range(5)]
        await current(board, board.log.reached)
        # From here on all that is on its disk, so that the words are there to be taken back.
        service.stop()
        service = start_recall()
        await current(board)
        for refs in talks:
            await board.retire(refs[0])
        await anyio.sleep(chance.uniform(0, 0.1))
        service.kill()
    service = start_recall()
    await current(board, board.log.reached)

    assert await named(board, "zebra") == set()
    service.stop()
    scratch = start_recall("scratch")
    await current(board)
    scratch.stop()
    killed, fresh = await entries(service.data), await entries(scratch.data)
    assert {ref: told(entry) for ref, entry in killed.items()} == {
        ref: told(entry) for ref, entry in fresh.items()
    }
