"""Other processes that take part in a measurement, spoken to in lines of JSON.

A child ends when its standard input does, so it cannot outlive the program that started it.
"""

import json
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from subprocess import PIPE
from typing import Any

import anyio
import anyio.to_thread
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from perf.machine import ROOT

LINE_LIMIT = 256 * 1024 * 1024
ANSWER_S = 300.0


class Child:
    """A running module of this folder.

    Attributes:
        greeting: What it said when it was ready.
    """

    def __init__(self, process: Process) -> None:
        if process.stdin is None or process.stdout is None:
            raise AssertionError("started without pipes")
        self.pid = process.pid
        self.greeting: Any = None
        self._stdin = process.stdin
        self._lines = BufferedByteReceiveStream(process.stdout)

    async def ask(self, word: str) -> Any:
        """Say a word and wait for the answer."""
        await self._stdin.send(word.encode() + b"\n")
        return await self.hear()

    async def hear(self) -> Any:
        """The next thing it says."""
        with anyio.fail_after(ANSWER_S):
            return json.loads(await self._lines.receive_until(b"\n", LINE_LIMIT))


@asynccontextmanager
async def child(
    module: str,
    *,
    python: str = sys.executable,
    env: Mapping[str, str] | None = None,
    **options: object,
) -> AsyncGenerator[Child]:
    """Run `perf.<module>` until the end of the block; on entering it has said that it is ready.

    Args:
        module: What to run.
        python: The interpreter.
        env: Its environment variables; None hands on ours.
        options: Told to it.
    """
    words = [python, "-m", f"perf.{module}", json.dumps(options)]
    process = await anyio.open_process(
        words, stdin=PIPE, stdout=PIPE, stderr=None, cwd=ROOT, env=env, start_new_session=True
    )
    try:
        running = Child(process)
        running.greeting = await running.hear()
        yield running
    finally:
        with anyio.CancelScope(shield=True):
            if process.stdin is not None:
                await process.stdin.aclose()
            with anyio.move_on_after(10):
                await process.wait()
            if process.returncode is None:
                process.kill()
                await process.wait()


# In the child


def options() -> dict[str, Any]:
    """What the child was told at its start."""
    return json.loads(sys.argv[1])


def say(value: object) -> None:
    """Tell the parent."""
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


async def words() -> AsyncIterator[str]:
    """What the parent says, until it is gone."""
    while True:
        line = await anyio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True)
        if not line:
            return
        yield line.strip()
