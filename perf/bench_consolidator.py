"""How fast a board is condensed, offline, and what recall takes meanwhile.

    python -m perf.bench_consolidator [--memories 100000 --groups 1000]

The services run as in production, in processes of their own: recall with an embedded index and
MiniLM, and the consolidator without a model. All memories are indexed before it begins. The time
ends when every source is retired behind a summary that is indexed.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

from blackboard import Blackboard
from blackboard.background import background
from blackboard.jetstream import Start
from blackboard.subjects import Pattern
from perf.bench_recall import current, measured, service, texts
from perf.harness import Bench, run
from perf.machine import ROOT

RATE = 300.0
SLOWER = 2.0
AT_ONCE = 20
"""Answers measured between two looks at how far it is."""
POLICY = '[[policy]]\ntopic = "talk"\nolder_than = "0s"\ncount = 2\n'


@asynccontextmanager
async def consolidator(url: str) -> AsyncGenerator[None]:
    """A consolidator that condenses everything, whatever its age."""
    with tempfile.TemporaryDirectory(prefix="blackboard-perf-consolidator-") as folder:
        policies = Path(folder) / "policies.toml"
        policies.write_text(POLICY)
        with (Path(folder) / "consolidator.log").open("wb") as output:
            process = await anyio.open_process(
                [sys.executable, "-m", "blackboard.consolidator"],
                cwd=ROOT,
                stdout=output,
                stderr=output,
                env={
                    **os.environ,
                    "BLACKBOARD_URL": url,
                    "BLACKBOARD_CONSOLIDATE": str(policies),
                    "OPENAI_BASE_URL": "",
                },
                start_new_session=True,
            )
        try:
            yield
        finally:
            with anyio.CancelScope(shield=True):
                process.terminate()
                with anyio.move_on_after(20):
                    await process.wait()
                if process.returncode is None:
                    process.kill()
                    await process.wait()


class Progress:
    """Counts what is retired, as it comes."""

    def __init__(self, board: Blackboard) -> None:
        self._board = board
        self.retired = 0
        self.summaries = 0

    async def follow(self) -> None:
        """Count, until cancelled."""
        subject = Pattern("talk").subject(self._board.name)
        async with self._board.log.follow(subject, Start.now()) as following:
            async for memory in following:
                self.retired += memory.gone == "retired"
                self.summaries += memory.condenses and memory.gone is None


async def fill(board: Blackboard, memories: int, groups: int) -> None:
    each = memories // groups
    made = texts(1, memories)
    for number in range(groups):
        part = made[number * each : (number + 1) * each]
        await board.put_many("talk", part, session=f"session-{number}")


async def main(bench: Bench) -> None:
    memories = bench.options.memories or bench.size(10_000, 120, 100_000)
    groups = bench.options.groups or max(2, memories // 100)
    async with (
        Blackboard.open(bench.url, board="bench", agent="asker") as board,
        service(bench.url),
    ):
        await current(board)
        await fill(board, memories, groups)
        await current(board)
        await measure(bench, board, memories // groups * groups)


async def measure(bench: Bench, board: Blackboard, memories: int) -> None:
    questions = [" ".join(text.split()[:9]) for text in texts(-1, 60)]
    await measured(board, questions, len(questions))
    idle = await measured(board, questions, bench.options.n)
    progress = Progress(board)
    busy: list[float] = []
    async with background() as group:
        group.start_soon(progress.follow)
        async with consolidator(bench.url):
            began = time.perf_counter()
            while progress.retired < memories:
                busy += await measured(board, questions, AT_ONCE)
                # Who asks all the time would measure itself.
                await anyio.sleep(0.5)
    seconds = time.perf_counter() - began
    rate = memories / seconds
    goal = (f">= {RATE:g}/s", rate >= RATE)
    row = bench.record(f"condense {memories:,}", [1000 * seconds], rate=rate, goal=goal)
    bench.table("offline, until every source is retired", [row])
    slower = (f"p95 <= {SLOWER:g} x idle", p95(busy) <= SLOWER * p95(idle))
    rows = [
        bench.record("recall, idle", idle),
        bench.record("recall, meanwhile", busy, goal=slower),
    ]
    bench.table("recall with as_context and audit", rows)
    bench.say(f"  {progress.summaries} summaries")


def p95(times: list[float]) -> float:
    return sorted(times)[int(0.95 * len(times))]


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--memories", type=int)
    parser.add_argument("--groups", type=int)


if __name__ == "__main__":
    run("consolidator", __doc__, main, n=200, arguments=arguments)
