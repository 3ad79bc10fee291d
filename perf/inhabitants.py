"""A process of many agents, each with a connection and a handler of its own, for `bench_agents`."""

import time
from contextlib import AsyncExitStack

import anyio
import psutil

from blackboard import Agent, Blackboard, Memory
from perf.processes import options, say, words


class Crowd:
    """The agents of this process and what they noted."""

    def __init__(self, url: str, stack: AsyncExitStack) -> None:
        self._url = url
        self._stack = stack
        self.boards: list[Blackboard] = []
        self.took: list[float] = []
        self.ages: list[float] = []

    async def enter(self, number: int) -> None:
        """Connect one agent and begin to handle."""
        agent = Agent(f"a{number}")

        @agent.on("news", ack_wait=60.0)
        async def heard(memory: Memory, _board: Blackboard) -> None:
            self.ages.append((time.monotonic_ns() - memory.content) / 1e6)

        began = time.perf_counter()
        opened = Blackboard.open(self._url, "bench", agent.name, create=False)
        board = await self._stack.enter_async_context(opened)
        await self._stack.enter_async_context(agent.running(board, grace=2.0))
        self.took.append(1000 * (time.perf_counter() - began))
        self.boards.append(board)

    async def publish(self) -> list[float]:
        """Each agent puts one memory, all at the same time."""
        times: list[float] = []

        async def one(board: Blackboard) -> None:
            began = time.perf_counter()
            await board.put("said", "hello")
            times.append(1000 * (time.perf_counter() - began))

        async with anyio.create_task_group() as group:
            for board in self.boards:
                group.start_soon(one, board)
        return times


async def main() -> None:
    told = options()
    me = psutil.Process()
    async with AsyncExitStack() as stack:
        say("ready")
        crowd = Crowd(told["url"], stack)
        async for word in words():
            if word == "enter":
                # One after the other: contexts are left in the order that they were entered.
                for number in range(told["first"], told["first"] + told["count"]):
                    await crowd.enter(number)
                say(crowd.took)
            elif word == "publish":
                say(await crowd.publish())
            elif word == "ages":
                say(crowd.ages)
            elif word == "use":
                say([me.memory_info().rss, sum(me.cpu_times()[:2])])


if __name__ == "__main__":
    anyio.run(main)
