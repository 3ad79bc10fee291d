"""Many agents in one process, each with a connection, a handler and a card of its own."""

import time
from contextlib import AsyncExitStack

import anyio

from blackboard import Agent, Blackboard, Memory
from tests.children import tell, told

ACK_WAIT_S = 60.0


async def enter(url: str, number: int, stack: AsyncExitStack) -> None:
    agent = Agent(f"a{number}")

    @agent.on("news", to="said", ack_wait=ACK_WAIT_S)
    async def hear(news: Memory, board: Blackboard) -> str:
        await board.put("heard", news.content, now=True)  # on disk when this returns
        tell(agent=number, heard=news.content, at=time.monotonic_ns())
        return agent.name

    board = await stack.enter_async_context(Blackboard.open(url, agent=agent.name, create=False))
    await stack.enter_async_context(agent.running(board, grace=2.0))


async def main() -> None:
    options = told()
    async with AsyncExitStack() as stack:
        for number in range(options["first"], options["first"] + options["count"]):
            await enter(options["url"], number, stack)
        tell(ready=True)
        await anyio.sleep_forever()


if __name__ == "__main__":
    anyio.run(main)
