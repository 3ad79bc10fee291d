"""Calls `once` from many tasks of one process, and says who was served with what.

What `make` returns is different at every run, so equal contents mean one run was chosen for all.
"""

import time
import uuid
from collections.abc import Awaitable, Callable

import anyio

from blackboard import Blackboard
from blackboard.errors import RetryableError
from tests.children import tell, told

NAME = "story"


def made(key: int) -> dict[str, object]:
    """A result that no other run of `make` gives."""
    return {"key": key, "run": uuid.uuid4().hex}


def making(key: int, work_s: float, *, stalled: bool) -> Callable[[], object]:
    """The work: async or in a thread, by the key; `stalled` blocks the process, lease and all."""

    async def make() -> object:
        tell(begins=key)
        if stalled:
            time.sleep(work_s)  # noqa: ASYNC251 - that it blocks is the point
        else:
            await anyio.sleep(work_s)
        tell(made=key)
        return made(key)

    def make_in_thread() -> object:
        tell(begins=key)
        time.sleep(work_s)
        tell(made=key)
        return made(key)

    return make if stalled or key % 2 else make_in_thread


async def patiently(call: Callable[[], Awaitable[None]]) -> None:
    """What every caller does with a retryable error; the broker may be killed meanwhile."""
    while True:
        try:
            await call()
        except RetryableError as error:
            tell(again=type(error).__name__)
        else:
            return


async def main() -> None:
    options = told()
    async with Blackboard.open(options["url"], agent=options["agent"]) as board:

        async def call(key: int, work_s: float, *, stalled: bool) -> None:
            memory = await board.once(
                NAME,
                key,
                making(key, work_s, stalled=stalled),
                topic="stories",
                session=options["agent"],
                lease=options["lease_s"],
            )
            tell(served=key, content=memory.content, kind=memory.kind)

        async with anyio.create_task_group() as group:

            def begin(key: int, work_s: float, *, stalled: bool = False) -> None:
                group.start_soon(patiently, lambda: call(key, work_s, stalled=stalled))

            for key in options["first"]:
                begin(key, options["first_s"], stalled=options["stalled"])
            async with board.watch("go", since="start") as memories:
                tell(ready=True)
                await anext(memories)
            for key in options["then"]:
                begin(key, options["work_s"] + key * options["longer_s"])


if __name__ == "__main__":
    anyio.run(main)
