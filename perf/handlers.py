"""A process that turns inputs into outputs, for `bench_pipeline`: an agent, and nats-py by itself.

The raw loops pull from a durable consumer, publish the output and acknowledge. Between publish and
acknowledgement they can crash and do it again. The careful one does as many requests as the agent's
transaction needs: two reads, then output and a record in one atomic batch.
"""

import anyio
from nats.aio.msg import Msg

from blackboard import Agent, Blackboard, Memory
from perf.processes import options, say, words
from perf.raw import STREAM, Raw, raw_client

SLOTS = 32
agent = Agent("echo")


@agent.on("in.one", to="out.one")
async def one(memory: Memory, _board: Blackboard) -> object:
    return memory.content


@agent.on("in.many", to="out.many", concurrency=SLOTS)
async def many(memory: Memory, _board: Blackboard) -> object:
    return memory.content


async def answer(raw: Raw, msg: Msg, target: str) -> None:
    if target == "careful":
        await raw.get(STREAM, msg.subject)
        await raw.get(STREAM, msg.subject)
        await raw.batch("raw.out.careful", [msg.data, b"{}"])
    else:
        await raw.publish(f"raw.out.{target}.{msg.subject.rpartition('.')[2]}", msg.data)
    await msg.ack()


async def pull(raw: Raw, name: str, slots: int, *, task_status: anyio.abc.TaskStatus[None]) -> None:
    consumer = await raw.js.pull_subscribe(f"raw.in.{name}.*", durable=f"raw-{name}")
    task_status.started()
    while True:
        try:
            messages = await consumer.fetch(slots, timeout=1)
        except TimeoutError:  # nats-py raises its own kind of it, and sometimes the plain one
            continue
        async with anyio.create_task_group() as group:
            for msg in messages:
                group.start_soon(answer, raw, msg, name)


async def main() -> None:
    url = options()["url"]
    async with (
        raw_client(url) as raw,
        Blackboard.open(url, "bench", "echo") as board,
        agent.running(board),
        anyio.create_task_group() as group,
    ):
        for name, slots in (("one", 1), ("careful", 1), ("many", SLOTS)):

            async def run(
                name: str = name, slots: int = slots, *, task_status: anyio.abc.TaskStatus[None]
            ) -> None:
                await pull(raw, name, slots, task_status=task_status)

            await group.start(run)
        say("ready")
        async for _ in words():
            pass
        group.cancel_scope.cancel()


if __name__ == "__main__":
    anyio.run(main)
