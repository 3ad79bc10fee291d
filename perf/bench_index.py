"""How fast the index takes in and finds memories, with and without filters.

    python -m perf.bench_index [--sizes 10000,100000]

Made-up memories: 384 dimensions in 200 clusters, 25 words of 30,000, 20 agents, 50 topics, 1,000
users. Each search asks both parts for 100 candidates, as a recall does, with the time that every
search has to look at. One caller, one search after another; the last rows search while 200 memories
a second come in, with a flush every ten seconds. No broker takes part.
"""

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import numpy as np
import psutil

from blackboard.recall.edge import EdgeIndex
from blackboard.recall.index import Company, Entry, Index, Signature, Sparse, Vectors, Where
from blackboard.search import Filter, Grant
from blackboard.subjects import Ref
from perf.harness import Bench, run

DIMENSIONS = 384
DEPTH = 100
GOAL_MS = 4.0
GOAL_APPLIES = 5_000
BATCH = 256
WRITES_S = 200
FLUSH_S = 10.0
NOW = datetime(2026, 1, 1, tzinfo=UTC)
SIGNATURE = Signature("bench", "made-up", DIMENSIONS, 1)


class Memories:
    """Made-up memories, the same in every run."""

    def __init__(self) -> None:
        self._numbers = np.random.default_rng(1)
        self._chance = random.Random(1)
        self._centres = self._numbers.normal(size=(200, DIMENSIONS))

    def vectors(self, words: int) -> Vectors:
        """A text of one of the clusters."""
        near = self._centres[self._chance.randrange(200)]
        one = near + 0.7 * self._numbers.normal(size=DIMENSIONS)
        # Few words are frequent and many are rare, as in a language.
        drawn = {int(30_000 * self._chance.random() ** 3) for _ in range(words)}
        weights = tuple(self._chance.uniform(0.5, 1.5) for _ in drawn)
        bare = (one / np.linalg.norm(one)).astype(np.float32)
        return Vectors(bare, Sparse(tuple(sorted(drawn)), weights))

    def entry(self, number: int) -> Entry:
        """The memory of this number."""
        agent = f"agent-{number % 20}"
        return Entry(
            ref=Ref(agent, f"docs.s{number % 50}", f"{number:032x}"),
            revision=number,
            access="shared" if number % 100 else "rare",
            author=agent,
            session=f"session-{number // 50}",
            user=f"user-{number % 1000}",
            tags={"dept": f"d{number % 10}"},
            priority=(number % 5) / 4,
            stored=NOW - timedelta(days=30) + timedelta(seconds=number),
            vectors=self.vectors(25),
        )

    def batches(self, first: int, last: int) -> Iterator[list[Entry]]:
        """Memories as the service applies them."""
        for start in range(first, last + 1, BATCH):
            yield [self.entry(number) for number in range(start, min(start + BATCH, last + 1))]


def wheres(size: int) -> dict[str, Where]:
    """What is searched in, by name."""
    ago = NOW - timedelta(days=30) + timedelta(seconds=0.9 * size)
    return {
        "everything": Where(Filter(), None, NOW),
        "one label, 99 %": Where(Filter(access=("shared",)), None, NOW),
        "half the agents": Where(
            Filter(agents=tuple(f"agent-{number}" for number in range(10))), None, NOW
        ),
        "one tag, 10 %": Where(Filter(tags={"dept": ("d3",)}), None, NOW),
        "the newest 10 %": Where(Filter(since=ago), None, NOW),
        "one topic, 2 %": Where(Filter(topic="*.s3"), None, NOW),
        "one user, 0.1 %": Where(Filter(users=("user-7",)), None, NOW),
        "rights to 1 %": Where(Filter(), (Grant("rare", "docs.>"),), NOW),
        "rights to 10 topics": Where(
            Filter(), tuple(Grant("shared", f"docs.s{number}") for number in range(10)), NOW
        ),
    }


async def timed(call: Callable[[], Awaitable[object]]) -> float:
    began = time.perf_counter()
    await call()
    return 1000 * (time.perf_counter() - began)


async def searches(
    bench: Bench, index: Index, memories: Memories, where: Where, what: str, *, pause_s: float = 0.0
) -> None:
    times: list[float] = []
    for number in range(bench.options.n + 20):
        asked = memories.vectors(8)

        async def ask(asked: Vectors = asked) -> None:
            await index.search(asked, where, DEPTH)

        took = await timed(ask)
        if number >= 20:
            times.append(took)
        if pause_s:
            await anyio.sleep(pause_s)
    at = sorted(times)[min(len(times) - 1, int(0.95 * len(times)))]
    bench.record(what, times, goal=(f"p95 <= {GOAL_MS:g} ms", at <= GOAL_MS))


async def fill(bench: Bench, index: EdgeIndex, memories: Memories, size: int) -> None:
    times: list[float] = []
    for batch in memories.batches(1, size):

        async def take(batch: list[Entry] = batch) -> None:
            await index.apply(batch, [], batch[-1].revision)

        times.append(await timed(take))
    rate = 1000 * size / sum(times)
    bench.record(
        f"{size:,}: apply {BATCH}",
        times,
        rate=rate,
        goal=(f">= {GOAL_APPLIES:,} a second", rate >= GOAL_APPLIES),
    )
    bench.record(f"{size:,}: flush", [await timed(index.flush)])
    bench.record(f"{size:,}: tidy", [await timed(index.tidy)])


async def queries(bench: Bench, index: EdgeIndex, size: int) -> None:
    company = Company("session-7", "shared", "docs.s1", "user-351")
    all_of, user = wheres(size)["everything"], wheres(size)["one user, 0.1 %"]
    cases: dict[str, Callable[[], Awaitable[object]]] = {
        "100 rows, newest first": lambda: index.select(all_of, "-stored", 100, None),
        "100 rows, by priority": lambda: index.select(all_of, "-priority", 100, None),
        "100 rows, by topic": lambda: index.select(all_of, "topic", 100, None),
        "100 rows of a user": lambda: index.select(user, "-stored", 100, None),
        "counts per agent": lambda: index.count(all_of, ["agent"]),
        "the newest of a session": lambda: index.newest(company, 400, 1),
    }
    for what, call in cases.items():
        bench.record(
            f"{size:,}: {what}", [await timed(call) for _ in range(min(50, bench.options.n))]
        )


async def under_writes(bench: Bench, index: EdgeIndex, memories: Memories, size: int) -> None:
    async with anyio.create_task_group() as tasks:

        async def write() -> None:
            revision, flushed = size, time.monotonic()
            while True:
                entries = [memories.entry(revision + place) for place in range(1, 21)]
                revision += 20
                await index.apply(entries, [], revision)
                if time.monotonic() - flushed > FLUSH_S:
                    await index.flush()
                    flushed = time.monotonic()
                await anyio.sleep(20 / WRITES_S)

        tasks.start_soon(write)
        for what in ("everything", "rights to 1 %"):
            where = wheres(size)[what]
            name = f"{size:,}: {what}, {WRITES_S} writes/s"
            await searches(bench, index, memories, where, name, pause_s=0.01)
        tasks.cancel_scope.cancel()


async def main(bench: Bench) -> None:
    sizes = [500] if bench.tiny else [int(size) for size in bench.options.sizes.split(",")]
    process = psutil.Process()
    for size in sizes:
        memories = Memories()
        with tempfile.TemporaryDirectory() as place:
            before = process.memory_info().rss
            index = await EdgeIndex.open(Path(place) / "index", SIGNATURE)
            first = len(bench.results)
            await fill(bench, index, memories, size)
            for what, where in wheres(size).items():
                await searches(bench, index, memories, where, f"{size:,}: {what}")
            await queries(bench, index, size)
            await under_writes(bench, index, memories, size)
            bench.table(f"{size:,} memories", bench.results[first:])
            await index.flush()
            disk = used(Path(place))
            memory = process.memory_info().rss - before
            bench.say(f"{memory / 1e6:,.0f} MB of memory more, {disk / 1e6:,.0f} MB on disk")
            recall = await agreement(index, memories, size)
            bench.say(f"of the exact first ten, {recall:.3f} were found")
            await index.close()


def used(place: Path) -> int:
    """Bytes on disk, without the holes of files."""
    return sum(512 * one.stat().st_blocks for one in place.rglob("*"))


async def agreement(index: EdgeIndex, memories: Memories, size: int) -> float:
    """The share of the true nearest that a search finds, against comparing with all."""
    again = Memories()
    every = np.stack([again.entry(number).vectors.bare for number in range(1, size + 1)])
    shares: list[float] = []
    for _ in range(50):
        asked = memories.vectors(8)
        true = {f"{place + 1:032x}" for place in np.argsort(-(every @ asked.bare))[:10]}
        found = await index.search(asked, Where(Filter(before=size + 1), None, NOW), DEPTH)
        shares.append(len(true & {hit.candidate.ref.rsplit("/")[-1] for hit in found["bare"]}) / 10)
    return statistics.mean(shares)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sizes", default="10000,100000", help="memories (%(default)s)")


if __name__ == "__main__":
    run("index", __doc__, main, n=300, arguments=arguments)
