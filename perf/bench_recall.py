"""Recall end to end: how fast a board is indexed, and how long an answer takes.

    python perf/bench_recall.py [--entries 10000] [--entries 100000]

The service runs as in production, in a process of its own with an embedded index and MiniLM. An
answer is everything a caller waits for: the request over the broker, the embedding of the question,
the hybrid search, ten direct gets that fill the hits, `as_context`, and the audit of each hit. It
is measured with and without filters, and again while another process writes 200 memories a second.
"""

import argparse
import itertools
import os
import random
import sys
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import anyio

from blackboard import Blackboard
from blackboard.errors import BlackboardError
from blackboard.search import Status
from perf.harness import Bench, Result, run
from perf.machine import ROOT
from perf.processes import child

LENGTH = 200
LIMIT_MS = 10.0
UNDER_WRITES_MS = 20.0
RATE = 400.0
WRITES = 200
BATCHES = 60
SETTLE_S = 3600.0
LOOSE, LOOSE_SHARE = 5_000, 0.1


def texts(seed: int, count: int) -> list[str]:
    """Texts of about 200 characters, of words as often as they are in the language reference."""
    words = " ".join(topics.values()).split()
    chance = random.Random(seed)
    made: list[str] = []
    for _ in range(count):
        start = chance.randrange(len(words) - 60)
        mixed = words[start : start + 25] + chance.sample(words, 15)
        made.append(" ".join(mixed)[:LENGTH])
    return made


@asynccontextmanager
async def service(url: str) -> AsyncGenerator[None]:
    """A recall service with an index of its own."""
    with tempfile.TemporaryDirectory(prefix="blackboard-perf-recall-") as folder:
        command = [sys.executable, "-m", "blackboard.recall"]
        with (Path(folder) / "recall.log").open("wb") as output:
            process = await anyio.open_process(
                command,
                cwd=ROOT,
                stdout=output,
                stderr=output,
                env={**os.environ, "BLACKBOARD_URL": url, "BLACKBOARD_DATA": folder},
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


async def current(board: Blackboard) -> Status:
    """Wait until everything is indexed."""
    with anyio.fail_after(SETTLE_S):
        while True:
            try:
                status = await board.finder.status()
            except BlackboardError:
                await anyio.sleep(0.1)
                continue
            if not status.state.lag and status.state.indexed >= board.log.reached:
                return status
            await anyio.sleep(0.1)


async def fill(board: Blackboard, first: int, count: int) -> None:
    """Put memories: 50 agents' worth of topics, tags, users and sessions."""
    made = texts(first, count)
    step = min(500, max(1, count // BATCHES))
    for number, start in enumerate(range(0, count, step)):
        await board.put_many(
            f"cases.t{number % 50}",
            made[start : start + step],
            tags={"team": ("blue", "red", "green")[number % 3]},
            user=f"user-{number % 20}",
        )


async def measured(board: Blackboard, questions: list[str], n: int, **where: Any) -> list[float]:
    """Milliseconds of answers, one after another; each has its ten hits."""
    times: list[float] = []
    for question in itertools.islice(itertools.cycle(questions), n):
        began = time.perf_counter()
        hits = await board.recall(question, fresh=False, **where)
        shown = hits.as_context(800)
        times.append(1000 * (time.perf_counter() - began))
        if not shown:
            raise AssertionError(f"nothing was found for {question!r} {where}")
    return times


async def settled(bench: Bench, board: Blackboard, size: int) -> None:
    """Wait until graphs are built over most of it, as they are a minute after a large load."""
    began = time.perf_counter()
    with anyio.fail_after(SETTLE_S):
        while True:
            if (await board.finder.status()).loose <= max(LOOSE, LOOSE_SHARE * size):
                break
            await anyio.sleep(0.5)
    bench.say(f"  graphs were built {time.perf_counter() - began:.0f} s later")


async def answers(bench: Bench, board: Blackboard, size: int) -> None:
    questions = [" ".join(text.split()[:9]) for text in texts(-1, 200)]
    n = bench.options.n
    cases: dict[str, dict[str, Any]] = {
        "unfiltered": {},
        "by topic": {"topic": "cases.t7"},
        "by tag and time": {"tags": {"team": "blue"}, "since": timedelta(days=1)},
        "by user": {"user": "user-3"},
    }
    # Each question once: a service that has run for a while has its index in memory.
    await measured(board, questions, min(n, len(questions)))
    rows: list[Result] = []
    for what, where in cases.items():
        times = await measured(board, questions, n, **where)
        await board.journal.flush()
        rows.append(_kept(bench, f"{size:,} entries: {what}", times, LIMIT_MS))
    async with child("recall_writer", url=bench.url, rate=WRITES) as writer:
        for what in ("unfiltered", "by tag and time"):
            times = await measured(board, questions, n, **cases[what])
            name = f"{size:,} entries: {what}, under {WRITES} writes/s"
            rows.append(_kept(bench, name, times, UNDER_WRITES_MS))
        told = await writer.ask("stop")
    bench.table(f"recall with as_context and audit, {size:,} entries", rows)
    bench.say(f"  written meanwhile: {told['rate']:.0f} memories/s, asked for {WRITES}")


def _kept(bench: Bench, what: str, times: list[float], limit_ms: float) -> Result:
    p95 = sorted(times)[int(0.95 * len(times))]
    return bench.record(what, times, goal=(f"p95 <= {limit_ms:g} ms", p95 <= limit_ms))


async def main(bench: Bench) -> None:
    sizes = sorted(bench.options.entries or [bench.size(10_000, 60, 100_000)])
    async with (
        Blackboard.open(bench.url, board="bench", agent="asker") as board,
        service(bench.url),
    ):
        done = 0
        for size in sizes:
            await index(bench, board, done, size)
            await settled(bench, board, size)
            await answers(bench, board, size)
            done = size


async def index(bench: Bench, board: Blackboard, done: int, size: int) -> None:
    before = await current(board)
    began = time.perf_counter()
    await fill(board, done, size - done)
    status = await current(board)
    seconds = time.perf_counter() - began
    rate = (size - done) / seconds
    row = bench.record(
        f"index {size - done:,} of {LENGTH} characters",
        [1000 * seconds],
        rate=rate,
        goal=(f">= {RATE:g}/s", rate >= RATE),
    )
    bench.table("indexing, from the put to the index", [row])
    spent = {name: value - before.seconds.get(name, 0.0) for name, value in status.seconds.items()}
    parts = ", ".join(f"{name} {value:.1f} s" for name, value in spent.items())
    bench.say(f"  of {seconds:.1f} s: {parts}; the rest follows the stream, flushes and waits")
    if status.memories < size:
        raise AssertionError(f"{status.memories} of {size} were indexed")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--entries", type=int, action="append", help="sizes of the index")


if __name__ == "__main__":
    run("recall", __doc__, main, n=400, arguments=arguments)
