"""Makes three memories of each input, the last a while after the first; each knows its call."""

import random
import uuid

import anyio

from blackboard import Agent, Blackboard, Memory

agent = Agent("tripler", version="1")


@agent.on("in.>", to="out.third", concurrency=4, ack_wait=1.0)
async def triple(item: Memory, board: Blackboard) -> dict[str, str]:
    made = {"input": item.content, "call": uuid.uuid4().hex}
    await board.put("out.first", made)
    await anyio.sleep(random.uniform(0.0, 0.1))
    await board.put("out.second", made)
    await anyio.sleep(random.uniform(0.0, 0.1))
    return made


if __name__ == "__main__":
    agent.run()
