"""Merges three parts of a session, which takes a while."""

import random
import uuid
from typing import Any

import anyio

from blackboard import Agent, Blackboard, Memory

agent = Agent("threesome", version="1")


@agent.gather("parts.>", by="session", until=3, to="whole", concurrency=16, ack_wait=1.0)
async def merge(parts: list[Memory], board: Blackboard) -> dict[str, Any]:
    await anyio.sleep(random.uniform(0.0, 0.02))
    return {
        "group": parts[0].session,
        "parts": sorted(part.content for part in parts),
        "call": uuid.uuid4().hex,
    }


if __name__ == "__main__":
    agent.run()
