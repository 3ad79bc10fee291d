"""Threads that give way: for work that nobody waits for, beside threads that somebody does.

On Linux each thread has a priority of its own. A thread that embeds what is indexed is behind one
that embeds a question, in this process and among all others, so indexing takes what is left of the
cores and a question all that it needs. Elsewhere they are plain threads.
"""

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, TypeVarTuple, Unpack

import anyio
import anyio.from_thread
import anyio.lowlevel

NICENESS = 10
"""On top of the process's own. More could keep one for long that holds the interpreter's lock."""

ArgsT = TypeVarTuple("ArgsT")
T = TypeVar("T")


class Hands:
    """Some threads of low priority; they end with the process, or when this is no longer used.

    Args:
        count: How many calls run at a time; others wait their turn.
    """

    def __init__(self, count: int) -> None:
        self._pool = ThreadPoolExecutor(count, "hand", initializer=_give_way)

    async def run(self, call: Callable[[Unpack[ArgsT]], T], *args: *ArgsT) -> T:
        """Call something in one of the threads; as with `anyio.to_thread`, it is not abandoned."""
        await anyio.lowlevel.checkpoint()
        token = anyio.lowlevel.current_token()
        done = anyio.Event()

        def work() -> T:
            try:
                return call(*args)
            finally:
                anyio.from_thread.run_sync(done.set, token=token)

        future = self._pool.submit(work)
        with anyio.CancelScope(shield=True):
            await done.wait()
        return future.result()


def _give_way() -> None:
    if sys.platform == "linux":
        thread = threading.get_native_id()
        own = os.getpriority(os.PRIO_PROCESS, thread)
        os.setpriority(os.PRIO_PROCESS, thread, own + NICENESS)
