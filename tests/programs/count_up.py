"""Adds one to a shared counter, many times, from one or several tasks."""

import time

import anyio

from blackboard import Blackboard, Memory
from tests.children import tell, told


def one_more(memory: Memory | None) -> int:
    return 1 if memory is None else int(memory.content) + 1


async def main() -> None:
    options = told()
    async with Blackboard.open(options["url"], agent=options["agent"]) as board:
        tell(ready=True)
        began = time.monotonic()
        for _ in range(options["times"]):
            await board.update(options["ref"], one_more)
        tell(seconds=time.monotonic() - began, counters=board.telemetry.counters)


if __name__ == "__main__":
    anyio.run(main)
