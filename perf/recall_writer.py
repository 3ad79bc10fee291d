"""Writes so many memories a second until it is told to stop; says how many it were."""

import json
import sys
import time

import anyio
import anyio.to_thread

from blackboard import Blackboard
from perf.bench_recall import texts


async def main() -> None:
    told = json.loads(sys.argv[1])
    made = texts(1_000_003, 2000)
    count = 0
    async with (
        Blackboard.open(told["url"], board="bench", agent="writer") as board,
        anyio.create_task_group() as group,
    ):

        async def write(number: int) -> None:
            nonlocal count
            await board.put(f"late.t{number % 50}", made[number % len(made)])
            count += 1

        async def keep_writing() -> None:
            began = time.perf_counter()
            number = 0
            while True:
                number += 1
                group.start_soon(write, number)
                await anyio.sleep_until(
                    anyio.current_time()
                    + max(0.0, began + number / told["rate"] - time.perf_counter())
                )

        say(ready=True)
        began = time.perf_counter()
        group.start_soon(keep_writing)
        await anyio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True)
        say(rate=count / (time.perf_counter() - began))
        group.cancel_scope.cancel()


def say(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    anyio.run(main)
