"""Says on the board that it has begun, and ends an input when it is told to go on."""

import uuid

from blackboard import Agent, Blackboard, Memory

agent = Agent("patient", version="1")


@agent.on("in", to="out", ack_wait=1.0)
async def handle(item: Memory, board: Blackboard) -> str:
    name = f"{item.content}-{uuid.uuid4().hex[:8]}"
    await board.put("begun", name, now=True)
    await board.wait(f"go.{item.content}", timeout=None)
    return name


if __name__ == "__main__":
    agent.run()
