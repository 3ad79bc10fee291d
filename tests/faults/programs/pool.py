"""A replica of a pool: makes three memories of each input, and one of each group of three parts."""

import random
import uuid
from typing import Any

import anyio

from blackboard import Agent, Blackboard, Memory

agent = Agent("pool", version="1")


@agent.on("in.>", to="out.third", concurrency=4, ack_wait=1.0)
async def triple(item: Memory, board: Blackboard) -> dict[str, Any]:
    made = {"v": item.content["v"], "call": uuid.uuid4().hex}
    await board.put("out.first", made)
    await anyio.sleep(random.uniform(0.0, 0.05))
    await board.put("out.second", made)
    return made


@agent.gather("parts.>", by="session", until=3, to="whole", concurrency=8, ack_wait=1.0)
async def merge(parts: list[Memory], board: Blackboard) -> dict[str, Any]:
    await anyio.sleep(random.uniform(0.0, 0.05))
    return {
        "v": parts[0].session,
        "parts": sorted(part.content["v"] for part in parts),
        "call": uuid.uuid4().hex,
    }


if __name__ == "__main__":
    agent.run()
