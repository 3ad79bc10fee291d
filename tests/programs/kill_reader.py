"""Follows a board through broker kills in three ways, and says what it saw, until SIGTERM.

A watcher from the start, a live one, and a view; and, after the signal and once all three have seen
the last memory, what the view holds.
"""

from collections.abc import AsyncIterator

import anyio

from blackboard import Blackboard, Memory, Ref
from blackboard.view import View
from tests.children import tell, told

LAST = Ref.parse("*/load.end/end")


async def follow(memories: AsyncIterator[Memory], name: str) -> None:
    async for memory in memories:
        tell(saw=name, revision=memory.revision)
        if memory.ref.unpinned == LAST:
            return


async def keep(view: View) -> None:
    while LAST not in view:
        await view.changed()
    tell(view={str(ref): memory.revision for ref, memory in view.items()})


async def main() -> None:
    options = told()
    async with (
        Blackboard.open(options["url"], agent=options["agent"]) as board,
        board.watch("load.>", since="start") as history,
        board.watch("load.>") as live,
        board.view("load.>") as view,
        anyio.create_task_group() as group,
    ):
        tell(ready=True)
        group.start_soon(follow, history, "history")
        group.start_soon(follow, live, "live")
        group.start_soon(keep, view)


if __name__ == "__main__":
    anyio.run(main)
