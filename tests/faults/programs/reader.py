"""Follows the board in three ways, and keeps what it was shown, up to the run's last memory."""

import time
from collections.abc import AsyncIterator

import anyio

from blackboard import Blackboard, Memory, Ref
from blackboard.view import View
from tests.children import tell, told
from tests.faults.history import END

LAST = Ref.parse(END)
DROPPED = 7
"""The planted bug `drop` shows one of so many not."""


async def follow(memories: AsyncIterator[Memory], name: str, planted: str) -> None:
    async for memory in memories:
        if memory.ref.unpinned == LAST:
            tell(ended=name)
            return
        if planted != "drop" or memory.revision % DROPPED:
            tell(saw=name, revision=memory.revision, value=memory.content["v"])


async def keep(view: View) -> None:
    while LAST not in view:
        await view.changed()
    tell(view={str(ref): memory.revision for ref, memory in view.items() if ref != LAST})


async def main() -> None:
    options = told()
    async with (
        Blackboard.open(options["url"], agent=options["agent"]) as board,
        board.watch("load.>", since="start") as history,
        board.watch("load.>") as live,
        board.view("load.>") as view,
        anyio.create_task_group() as group,
    ):
        for name in ("start", "now"):
            tell(watching=name, at=time.monotonic_ns())
        tell(ready=True)
        group.start_soon(follow, history, "start", options["planted"])
        group.start_soon(follow, live, "now", options["planted"])
        group.start_soon(keep, view)


if __name__ == "__main__":
    anyio.run(main)
