"""A handler may have tasks of its own, which write through one board at the same time."""

from typing import Any

import anyio

from blackboard import Agent, Blackboard, Memory
from tests.settling import everything, settled


async def test_tasks_of_one_handler_that_count_in_one_key_lose_nothing(board: Blackboard) -> None:
    agent = Agent("counter")
    await board.put("state", 100, key="n")

    @agent.on("in")
    async def count(item: Memory, bound: Blackboard) -> None:
        async def one() -> None:
            await bound.update("*/state/n", lambda m: 1 if m is None else m.content + 1)

        async with anyio.create_task_group() as group:
            for _ in range(item.content):
                group.start_soon(one)

    async with agent.running(board):
        await board.put("in", 20)
        await settled(board, "counter--count")

    assert [memory.content for memory in await everything(board, "state")] == [100, 120]


async def test_outputs_are_numbered_in_the_order_in_which_tasks_put_them(
    board: Blackboard,
) -> None:
    agent = Agent("maker")
    source = await board.put("sources", "s", key="k")

    @agent.on("in")
    async def make(item: Memory, bound: Blackboard) -> None:
        async def one(number: int) -> None:
            # What is named by its text has to be looked up first.
            sources: list[Any] = [str(source)] if number == item.content else []
            await bound.put("out", number, sources=sources)

        async with anyio.create_task_group() as group:
            for number in range(3):
                group.start_soon(one, number)

    async with agent.running(board):
        ref = await board.put("in", 0)
        await settled(board, "maker--make")
        await board.revise(ref, 1)
        await settled(board, "maker--make")

    outputs = await everything(board, "out")
    assert len(outputs) == 6
    assert len({(memory.ref, memory.content) for memory in outputs}) == 3
