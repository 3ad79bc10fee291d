"""Whether a board gets slower as it grows: put, get, watch and gather at 10k, 100k, 1M memories.

    python perf/bench_growth.py        (1M only with --full: 1 GB of disk, some minutes)

A second board of 10,000 memories on the same broker is measured in the same turns, so what is shown
is the size and not the machine's mood. What fills it lies in a hundred topics.
Gather is the time from the last of three parts to the merged memory in hand.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import anyio

from blackboard import Agent, Blackboard, Memory, Ref
from perf.harness import Bench, Case, at_most, run
from perf.raw import text_of

ARRIVE_S, BATCH, PARTS = 30.0, 10_000, 3


@dataclass(slots=True)
class Side:
    """One of the two boards, with an agent that gathers on it."""

    board: Blackboard
    merged: AsyncIterator[Memory]
    size: int = 0
    groups: int = 0
    refs: list[Ref] = field(default_factory=list[Ref])

    async def grow(self, size: int) -> None:
        """Put memories until there are so many."""
        text = text_of()
        while self.size < size:
            count = min(BATCH, size - self.size)
            refs = await self.board.put_many(f"fill.t{self.size // BATCH % 100}", [text] * count)
            self.refs += refs[:: max(1, count // 100)]
            self.size += count

    async def put(self, _: int) -> None:
        """A new memory."""
        await self.board.put("notes", text_of())

    async def get(self, number: int) -> None:
        """One of those that fill it."""
        await self.board.get(self.refs[number * 7919 % len(self.refs)])

    async def watch(self, _: int) -> None:
        """Begin to watch, and end."""
        async with self.board.watch("quiet"):
            pass

    async def watch_past(self, _: int) -> None:
        """Begin with the history of a small topic, and have its first memory."""
        async with self.board.watch("quiet", "start") as memories:
            await anext(memories)

    async def gather(self, _: int) -> None:
        """Put the parts of a group; have it merged."""
        self.groups += 1
        session = f"g{self.groups}"
        for part in range(PARTS):
            await self.board.put("parts", part, session=session)
        with anyio.fail_after(ARRIVE_S):
            while (await anext(self.merged)).session != session:
                pass


WHAT: dict[str, Callable[[Side, int], Awaitable[None]]] = {
    "put": Side.put,
    "get": Side.get,
    "watch start": Side.watch,
    "watch from the start": Side.watch_past,
    "gather": Side.gather,
}


def merger() -> Agent:
    agent = Agent("merger")

    @agent.gather("parts", by="session", until=PARTS, to="merged")
    async def merge(parts: list[Memory], _board: Blackboard) -> int:
        return sum(part.content for part in parts)

    return agent


async def opened(bench: Bench, name: str, stack: AsyncExitStack) -> Side:
    board = await stack.enter_async_context(Blackboard.open(bench.url, name, "bench"))
    await stack.enter_async_context(merger().running(board))
    for number in range(5):
        await board.put("quiet", number)
    return Side(board, await stack.enter_async_context(board.watch("merged")))


def pair(what: str, small: Side, big: Side) -> list[Case]:
    call = WHAT[what]
    name = f"{what} at {small.size:,}"
    goal = at_most(1.5, name) if what in ("put", "get") else None
    more = Case(f"{what} at {big.size:,} (big)", lambda i: call(big, i), goal=goal)
    return [Case(name, lambda i: call(small, i)), more]


async def main(bench: Bench) -> None:
    sizes = [100, 300] if bench.tiny else [10_000, 100_000, *[1_000_000] * bench.full]
    async with AsyncExitStack() as stack:
        small, big = await opened(bench, "small", stack), await opened(bench, "big", stack)
        await small.grow(sizes[0])
        for size in sizes:
            await big.grow(size)
            await big.board.journal.flush()
            for what in WHAT:
                n = None if what in ("put", "get") else max(10, bench.options.n // 10)
                await bench.compare(f"{size:,} memories, {what}", pair(what, small, big), n=n)


if __name__ == "__main__":
    run("growth", __doc__, main, n=1000)
