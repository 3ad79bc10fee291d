"""Writes without a pause, through broker kills, and says what was acknowledged, until SIGTERM.

Four kinds of writing at once: new memories, batches of them, one shared key revised with
`expected=`, and a counter shared with the other writers.
"""

import signal
import time
from collections.abc import Awaitable, Callable

import anyio

from blackboard import Blackboard, Memory, Ref
from blackboard.errors import UnavailableError
from tests.children import tell, told

BATCH = 40


def one_more(memory: Memory | None) -> int:
    return 1 if memory is None else int(memory.content) + 1


class Writing:
    """What this process writes."""

    def __init__(self, board: Blackboard, name: str) -> None:
        self.board = board
        self.name = name
        self.stopping = False
        self.sent = 0

    async def all(self) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(self._on_signal)
            async with anyio.create_task_group() as work:
                for write in (self._new, self._many, self._count):
                    work.start_soon(self._again, write)
                work.start_soon(self._chain)
            group.cancel_scope.cancel()

    async def _on_signal(self) -> None:
        with anyio.open_signal_receiver(signal.SIGTERM) as signals:
            async for _ in signals:
                self.stopping = True

    async def _again(self, write: Callable[[], Awaitable[None]]) -> None:
        while not self.stopping:
            began = time.monotonic()
            try:
                await write()
            except UnavailableError:
                tell(unavailable=write.__name__, after=time.monotonic() - began)

    async def _new(self) -> None:
        self.sent += 1
        content = f"{self.name}-{self.sent}"
        ref = await self.board.put("load.new", content)
        tell(revision=ref.written, topic="load.new", content=content)

    async def _many(self) -> None:
        self.sent += 1
        contents = [f"{self.name}-{self.sent}-{number}" for number in range(BATCH)]
        refs = await self.board.put_many("load.many", contents)
        for ref, content in zip(refs, contents, strict=True):
            tell(revision=ref.written, topic="load.many", content=content)

    async def _count(self) -> None:
        memory = await self.board.update("*/load.count/n", one_more)
        tell(revision=memory.revision, topic="load.count", content=memory.content)

    async def _chain(self) -> None:
        # Nobody else writes this key, so a conflict would be a false one, and ends the process.
        key, last, number = f"chain-{self.name}", 0, 0
        ref = Ref.parse(f"*/load.chain/{key}")
        while not self.stopping:
            began = time.monotonic()
            number += 1
            try:
                if number % 2:
                    put = await self.board.put("load.chain", number, key=key, expected=last)
                else:
                    put = await self.board.revise(ref, number, expected=last)
            except UnavailableError:
                tell(unavailable="chain", after=time.monotonic() - began)
                last = await self._head(ref)
                continue
            last = put.written or 0
            tell(revision=last, topic="load.chain", content=number)

    async def _head(self, ref: Ref) -> int:
        # It may be stored or not; whoever was told so reads again.
        while True:
            try:
                memory = await self.board.log.head(ref)
            except UnavailableError:
                continue
            return 0 if memory is None else memory.revision


async def main() -> None:
    options = told()
    async with Blackboard.open(options["url"], agent=options["agent"]) as board:
        tell(ready=True)
        await Writing(board, options["name"]).all()


if __name__ == "__main__":
    anyio.run(main)
