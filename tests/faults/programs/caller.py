"""Asks for the same pieces of work as the other callers at the same time, until SIGTERM.

Which piece is next follows from the time since the run began, so that callers that were stopped or
killed meet the others again.
"""

import random
import signal
import time
import uuid
from typing import Any

import anyio

from blackboard import Blackboard
from tests.children import tell, told
from tests.faults.history import Recorder

NAME = "work"
LEASE_S = 1.0
EACH_S = 0.3
AT_ONCE = 3


class Caller:
    """What this process asks for.

    Args:
        board: Where.
        seed: Decides how long things take.
        began: When the run began, by the monotonic clock in seconds.
        planted: `deaf` serves what was made here, whatever was stored; empty for no bug.
    """

    def __init__(self, board: Blackboard, seed: str, began: float, planted: str) -> None:
        self.board = board
        self.began = began
        self.planted = planted
        self.dice = random.Random(seed)
        self.stopping = False
        self._record = Recorder().call

    async def all(self) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(self._on_signal)
            async with anyio.create_task_group() as work:
                for number in range(AT_ONCE):
                    work.start_soon(self._again, number)
            group.cancel_scope.cancel()

    async def _on_signal(self) -> None:
        with anyio.open_signal_receiver(signal.SIGTERM) as signals:
            tell(ready=True)  # from now on it can be told to end
            async for _ in signals:
                self.stopping = True

    async def _again(self, number: int) -> None:
        while not self.stopping:
            step = int((time.monotonic() - self.began) / EACH_S)
            await self._once(step * AT_ONCE + number)
            due = self.began + (step + 1) * EACH_S
            await anyio.sleep(max(0.0, due - time.monotonic()) + self.dice.uniform(0, 0.03))

    async def _once(self, key: int) -> None:
        work_s = self.dice.choice((0.0, 0.05, 0.3, 1.0))
        run = uuid.uuid4().hex

        async def make() -> dict[str, Any]:
            tell(begins=key)
            await anyio.sleep(work_s)
            tell(makes=key)
            return {"v": run, "key": key}

        topic = None if key % 2 else "shown"
        await self._record(
            "once",
            lambda: self.board.once(NAME, key, make, topic=topic, lease=LEASE_S),
            lambda memory: {
                "values": [run if self.planted == "deaf" else memory.content["v"]],
                "revisions": [memory.revision],
                "ref": str(memory.ref.unpinned),
            },
            key=key,
        )


async def main() -> None:
    options = told()
    async with Blackboard.open(options["url"], agent=options["agent"]) as board:
        await Caller(board, options["seed"], options["began"], options["planted"]).all()


if __name__ == "__main__":
    anyio.run(main)
