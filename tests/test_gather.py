"""`gather`: every complete group is merged exactly once, and once more for each change."""

import random
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from blackboard import Agent, Blackboard, Memory
from blackboard.telemetry import GROUPLESS
from tests.replicas import replicas
from tests.servers import Server
from tests.settling import everything, settled
from tests.waiting import wait_until

GROUPS = 1000


def summing() -> tuple[Agent, list[list[Any]]]:
    """An agent that adds up the three parts of a session, and what it was called with."""
    agent = Agent("adder")
    calls: list[list[Any]] = []

    @agent.gather("parts.>", by="session", until=3, to="sum")
    async def add(parts: list[Memory], _: Blackboard) -> int:
        calls.append([part.content for part in parts])
        return sum(part.content for part in parts)

    return agent, calls


@pytest.mark.timeout(150)
async def test_three_replicas_merge_a_thousand_groups_once_each_though_some_are_killed(
    server: Server, board: Blackboard, tmp_path: Path
) -> None:
    parts = [Memory(content=n, session=f"g{g}") for g in range(GROUPS) for n in range(3)]
    random.shuffle(parts)

    with replicas(server.url, tmp_path) as start:
        workers = [start("threesome") for _ in range(3)]
        for worker in workers:
            await worker.until("agent.running")
        await board.put_many("parts.x", parts)
        for merged in (100, 300, 500):
            await wait_until(
                lambda merged=merged: _merged(board, merged), f"{merged} groups", timeout=40
            )
            workers.pop(0).kill()
            workers.append(start("threesome"))
        await settled(board, "threesome--merge")

        outputs = await everything(board, "whole")
        assert Counter(m.content["group"] for m in outputs) == {f"g{g}": 1 for g in range(GROUPS)}
        assert all(memory.content["parts"] == [0, 1, 2] for memory in outputs)

        async with board.view("parts.>") as view:
            part = next(m for m in view.values() if m.session == "g7")
        await board.revise(part.ref, 99)
        await settled(board, "threesome--merge")

    again = (await everything(board, "whole"))[GROUPS:]
    assert len(again) == 1
    assert 99 in again[0].content["parts"]
    assert again[0].ref in {memory.ref for memory in outputs}


async def _merged(board: Blackboard, count: int) -> bool:
    info = await board.log.connection.stream(board.log.stream, subjects="mem.main.*.*.whole.*")
    return info is not None and len(info.state.subjects) >= count


async def test_parts_come_in_the_order_of_their_first_arrival(board: Blackboard) -> None:
    agent, calls = summing()

    async with agent.running(board):
        first = await board.put("parts", 1, session="s")
        await settled(board, "adder--add")
        second = await board.put("parts", 2, session="s")
        await settled(board, "adder--add")
        await board.revise(first, 10)
        await settled(board, "adder--add")
        third = await board.put("parts", 3, session="s")
        out = await board.wait("sum", timeout=5)

    assert calls == [[10, 2, 3]]
    assert out.session == "s"
    assert [source.id for source in out.sources] == [first.id, second.id, third.id]


async def test_a_part_that_is_taken_back_leaves_its_group(board: Blackboard) -> None:
    agent, calls = summing()

    async with agent.running(board):
        refs = [await board.put("parts", n, session="s") for n in (1, 2, 3, 4)]
        await settled(board, "adder--add")
        calls.clear()
        await board.retire(refs[0])
        await settled(board, "adder--add")
        assert [sorted(call) for call in calls] == [[2, 3, 4]]

        await board.retire(refs[1])
        await settled(board, "adder--add")

        assert len(calls) == 1
        assert (await everything(board, "sum"))[-1].content == 9


async def test_a_part_that_changes_its_group_leaves_the_old_one(board: Blackboard) -> None:
    agent = Agent("adder")
    calls: list[tuple[str, list[Any]]] = []

    @agent.gather("parts", by="tags.team", until=2)
    async def add(parts: list[Memory], _: Blackboard) -> None:
        calls.append((parts[0].tags["team"], sorted(part.content for part in parts)))

    async with agent.running(board):
        moving = await board.put("parts", 1, tags={"team": "red"})
        await board.put("parts", 2, tags={"team": "blue"})
        await settled(board, "adder--add")
        await board.revise(moving, 10, tags={"team": "blue"})
        await settled(board, "adder--add")
        await board.put("parts", 3, tags={"team": "red"})
        await settled(board, "adder--add")

    assert calls == [("blue", [2, 10])]


async def test_a_moved_part_changes_nothing(board: Blackboard) -> None:
    agent, calls = summing()

    async with agent.running(board):
        refs = [await board.put("parts", n, session="s") for n in (1, 2, 3)]
        await settled(board, "adder--add")
        await board.reclassify(refs[0], access="pii")
        await settled(board, "adder--add")

    assert len(calls) == 1


async def test_until_may_be_an_async_function_of_the_parts(board: Blackboard) -> None:
    agent = Agent("collector")

    async def has_end(parts: list[Memory]) -> bool:
        await anyio.lowlevel.checkpoint()
        return any(part.content == "end" for part in parts)

    @agent.gather("parts", by=lambda memory: memory.user, until=has_end, to="all")
    async def collect(parts: list[Memory], _: Blackboard) -> str:
        return "".join(sorted(part.content for part in parts))

    async with agent.running(board) as runner:
        await board.put("parts", "nobody's")
        await board.put("parts", "a", user="u")
        await settled(board, "collector--collect")
        await board.put("parts", "end", user="u")
        out = await board.wait("all", timeout=5)
        skipped = board.sibling(agent="collector").telemetry.counted(GROUPLESS)

        assert (out.content, out.user) == ("aend", "u")
        assert skipped == 1
        assert runner.stats.done == 2


async def test_a_group_is_merged_when_nothing_came_for_a_while(board: Blackboard) -> None:
    agent = Agent("collector")
    calls: list[list[int]] = []

    @agent.gather("parts", idle=timedelta(seconds=0.6), to="all")
    async def collect(parts: list[Memory], _: Blackboard) -> int:
        calls.append(sorted(part.content for part in parts))
        return len(parts)

    async with agent.running(board):
        for number in range(4):
            await board.put("parts", number, session="s")
            await anyio.sleep(0.2)  # below idle=, so that the group is never quiet in between
        last = anyio.current_time()
        await board.wait("all", timeout=5)
        waited = anyio.current_time() - last
        await settled(board, "collector--collect")
        assert calls == [[0, 1, 2, 3]]
        assert waited > 0.3

        await board.put("parts", 4, session="s")
        await wait_until(lambda: len(calls) == 2, "merged once more")
        await settled(board, "collector--collect")

    assert calls[1] == [0, 1, 2, 3, 4]
    assert len({memory.ref for memory in await everything(board, "all")}) == 1


async def test_a_crash_between_the_last_arrival_and_the_merge_is_made_good(
    board: Blackboard,
) -> None:
    agent = Agent("adder")
    calls = 0

    @agent.gather("parts", until=2, to="sum", ack_wait=1.0)
    async def add(parts: list[Memory], _: Blackboard) -> int:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise RuntimeError("as if the process had died here")
        return sum(part.content for part in parts)

    async with agent.running(board):
        await board.put("parts", 1, session="s")
        await board.put("parts", 2, session="s")
        out = await board.wait("sum", timeout=10)
        await settled(board, "adder--add")

    assert out.content == 3
    assert len(await everything(board, "sum")) == 1
