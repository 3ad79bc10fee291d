"""Watching, replaying, waiting, views: in order, without a gap, whatever happens to the broker."""

from datetime import datetime, timedelta

import anyio
import pytest

from blackboard import Blackboard, Memory
from blackboard.errors import InvalidError, TooLargeError
from tests.servers import Server
from tests.waiting import wait_until


async def test_a_watcher_sees_what_comes_and_only_what_it_asked_for(board: Blackboard) -> None:
    await board.put("reports.old", "before")
    async with board.watch("reports.>") as memories:
        await board.put("reports.q3", 1)
        await board.put("elsewhere", 2)
        await board.put("reports", 3)

        seen = [await anext(memories) for _ in range(2)]

    assert [(memory.topic, memory.content) for memory in seen] == [
        ("reports.q3", 1),
        ("reports", 3),
    ]


async def test_history_and_live_are_one_sequence(board: Blackboard) -> None:
    total = 600
    seen: list[int] = []
    async with anyio.create_task_group() as group:

        async def write() -> None:
            for number in range(total):
                await board.put("t", number)

        group.start_soon(write)
        async with board.watch("t", since="start") as memories:
            seen = [(await anext(memories)).content for _ in range(total)]

    assert seen == list(range(total))


async def test_since_takes_a_time_a_duration_or_a_revision(board: Blackboard) -> None:
    await board.put("t", "one")
    two = await board.put("t", "two")
    stored = (await board.get(two)).stored
    assert stored is not None
    await board.put("t", "three")

    async def first(since: datetime | timedelta | int) -> Memory:
        async with board.watch("t", since=since) as memories:
            return await anext(memories)

    assert (await first(timedelta(hours=1))).content == "one"
    assert (await first(stored)).content == "two"
    assert (await first(two.written or 0)).content == "two"


async def test_bad_patterns_and_times_are_refused(board: Blackboard) -> None:
    for pattern in ("", "a.>.b", "a b", "a..b", "a>", "*a"):
        with pytest.raises(InvalidError):
            async with board.watch(pattern):
                pass
    for since in (0, datetime(2026, 1, 1), "yesterday"):  # noqa: DTZ001 - that is the mistake
        with pytest.raises(InvalidError):
            async with board.watch("t", since=since):  # pyright: ignore[reportArgumentType]
                pass


async def test_a_replay_ends_where_the_board_ended_when_it_began(board: Blackboard) -> None:
    refs = [await board.put("t", number) for number in range(5)]

    async with board.replay("t", since=refs[1].written, until=refs[3].written) as memories:
        part = [memory.content async for memory in memories]
    async with board.replay(">") as memories:
        everything: list[int] = []
        async for memory in memories:
            everything.append(memory.content)
            await board.put("t", "later")
    async with board.replay("nothing.here") as memories:
        nothing = [memory async for memory in memories]

    assert part == [1, 2, 3]
    assert everything == [0, 1, 2, 3, 4]
    assert nothing == []


async def test_a_replay_keeps_the_original_pace(board: Blackboard) -> None:
    await board.put("t", 1)
    await anyio.sleep(0.3)  # the pace to keep
    await board.put("t", 2)

    async def seconds(speed: float) -> float:
        began = anyio.current_time()
        async with board.replay("t", speed=speed) as memories:
            assert [memory.content async for memory in memories] == [1, 2]
        return anyio.current_time() - began

    assert await seconds(1.0) >= 0.3
    assert await seconds(100.0) < 0.3


async def test_waiting_finds_what_is_there_and_what_comes(board: Blackboard) -> None:
    await board.put("t", "other", session="s0")
    gone = await board.put("t", "gone", session="s1")
    await board.retire(gone)
    async with anyio.create_task_group() as group:

        async def later() -> None:
            await board.put("t", "right", session="s1", kind="result", tags={"a": "b", "c": "d"})

        group.start_soon(later)
        found = await board.wait("t", session="s1", kind="result", tags={"a": "b"}, timeout=5)
        assert found.content == "right"

    assert (await board.wait("t", timeout=5)).content == "other"
    with pytest.raises(TimeoutError, match="nothing that matches"):
        await board.wait("t", session="never", timeout=0.1)


async def test_a_view_holds_what_is_there_from_the_first_moment(board: Blackboard) -> None:
    refs = await board.put_many("docs.a", list(range(1_500)))
    await board.revise(refs[7], "revised")
    bob = board.sibling(agent="bob")
    key = await board.put("docs", 1, key="k")
    await bob.put("docs", 2, key="k")

    async with board.view("docs.>") as view:
        assert len(view) == 1_501
        assert view[refs[7]].content == "revised"
        assert view[key].content == 2
        assert "docs" in {memory.topic for memory in view.values()}

        await bob.put("docs", 3, key="k")
        await view.changed()
        assert view[key].content == 3
        assert view[key].agent == "bob"


async def test_everybody_who_waits_for_a_view_hears_of_a_change(board: Blackboard) -> None:
    async with board.view("t") as view, anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(view.changed)
        await anyio.wait_all_tasks_blocked()
        with anyio.fail_after(5):
            await board.put("t", 1)
            await view.changed()


async def test_a_view_that_grows_too_large_says_so(board: Blackboard) -> None:
    await board.put_many("t", list(range(20)))
    with pytest.raises(TooLargeError, match="narrow the pattern"):
        async with board.view("t", limit=10):
            pass
    async with board.view("t", limit=20) as view:
        extra = await board.put("t", "one too many")
        await view.changed()
        with pytest.raises(TooLargeError):
            await view.changed()
        with pytest.raises(TooLargeError):
            view[extra]


async def test_a_watcher_goes_on_after_the_broker_was_killed(
    board: Blackboard, server: Server
) -> None:
    async with board.watch("t", since="start") as memories, board.view("t") as view:
        seen: list[int] = []
        for round_number in range(3):
            for number in range(50):
                await board.put("t", round_number * 50 + number)
            server.kill()
            server.start()
        while len(seen) < 150:
            seen.append((await anext(memories)).content)
        await wait_until(lambda: len(view) == 150, "the view is current again")

    assert seen == list(range(150))


async def test_an_error_in_the_body_of_open_is_raised_as_it_is(server: Server) -> None:
    with pytest.raises(ZeroDivisionError):
        async with Blackboard.open(server.url) as board, board.view("t"), board.watch("t"):
            raise ZeroDivisionError


async def test_no_delivery_of_a_fast_reader_goes_unrecorded(board: Blackboard) -> None:
    total = 25_000
    for first in range(0, total, 5_000):
        await board.put_many("t", list(range(first, first + 5_000)))

    async with board.replay("t") as memories:
        seen = [memory.content async for memory in memories]
    async with board.view("t") as view:
        assert len(view) == total

    assert seen == list(range(total))
    assert board.journal.counters == {}
