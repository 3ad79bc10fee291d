"""A process of watchers for `bench_notify`: notes how old each message is when it arrives.

Content is the sender's monotonic clock, which all processes of a machine share. Ours are watchers
of a board, raw ones ordered consumers of nats-py; several share a connection where there are many.
"""

import time
from contextlib import AsyncExitStack

import anyio
import msgspec
from anyio.abc import TaskGroup
from nats.aio.msg import Msg
from nats.js.api import DeliverPolicy

from blackboard import Blackboard
from perf.processes import options, say, words
from perf.raw import raw_client


def age(sent_ns: int) -> float:
    return (time.monotonic_ns() - sent_ns) / 1e6


async def watch(board: Blackboard, ages: list[float], ready: anyio.Semaphore) -> None:
    async with board.watch("notify") as memories:
        ready.release()
        async for memory in memories:
            ages.append(age(memory.content))  # noqa: PERF401 - others read it meanwhile


async def start(
    url: str, watchers: int, connections: int, stack: AsyncExitStack, group: TaskGroup
) -> dict[str, list[float]]:
    ages: dict[str, list[float]] = {"ours": [], "raw": []}
    ready = anyio.Semaphore(0)

    async def arrived(msg: Msg) -> None:
        ages["raw"].append(age(msgspec.json.decode(msg.data)["content"]))

    boards = [
        await stack.enter_async_context(Blackboard.open(url, "bench", f"w{number}"))
        for number in range(connections)
    ]
    raws = [
        await stack.enter_async_context(raw_client(url, stream=False)) for _ in range(connections)
    ]
    for number in range(watchers):
        group.start_soon(watch, boards[number % connections], ages["ours"], ready)
        await ready.acquire()
        await raws[number % connections].js.subscribe(
            "raw.notify.>", cb=arrived, ordered_consumer=True, deliver_policy=DeliverPolicy.NEW
        )
    return ages


async def main() -> None:
    told = options()
    async with anyio.create_task_group() as group, AsyncExitStack() as stack:
        ages = await start(told["url"], told["watchers"], told["connections"], stack, group)
        say("ready")
        async for word in words():
            if word == "count":
                say({way: len(some) for way, some in ages.items()})
            else:
                say(ages)
                for some in ages.values():
                    some.clear()
        group.cancel_scope.cancel()


if __name__ == "__main__":
    anyio.run(main)
