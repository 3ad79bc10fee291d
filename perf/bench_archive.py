"""A board leaves as files and comes back: export, import, a second import, a person's report.

    python perf/bench_archive.py        (--full: 1,000,000 memories, some minutes)

Of 100,000 memories of 256 characters, one in ten of them with a user, half of whom are one person.
The imported board is compared with the exported one, memory by memory.
"""

import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from io import BytesIO
from pathlib import Path

from blackboard import Blackboard, Memory
from blackboard.archive import Loaded, export, load
from blackboard.report import gathered, write_page, write_tree
from perf.harness import Bench, Result, run
from perf.raw import text_of

BATCH, GOAL = 1_000, 10_000
PERSON = "customer-42"


async def fill(board: Blackboard, count: int) -> None:
    """Put memories, as agents that look after many people do."""
    text = text_of()
    for first in range(0, count, BATCH):
        memories = [Memory(content=text, user=user_of(first + n)) for n in range(BATCH)]
        await board.put_many(f"cases.t{first // BATCH % 100}", memories[: count - first])


def user_of(number: int) -> str | None:
    """Whom a memory is about."""
    return {0: PERSON, 10: f"customer-{number}"}.get(number % 20)


def check(*, holds: bool, what: str) -> None:
    """End a measurement of what is not as it has to be."""
    if not holds:
        raise AssertionError(what)


@asynccontextmanager
async def timed(
    bench: Bench, what: str, count: int, found: list[Result], goal: int | None = None
) -> AsyncGenerator[None]:
    """Measure what is done in the context with so many memories."""
    began = time.perf_counter()
    yield
    seconds = time.perf_counter() - began
    wanted = None if goal is None or bench.tiny else (f">= {goal:,}/s", count / seconds >= goal)
    times = [seconds * 1000]
    found.append(bench.record(f"{what} {count:,}", times, rate=count / seconds, goal=wanted))


async def compare(one: Blackboard, other: Blackboard) -> None:
    """Both have the same memories, in the same order, saying the same."""
    async with one.replay("cases.>") as these, other.replay("cases.>") as those:
        async for this in these:
            that = await anext(those)
            check(
                holds=(this.ref, this.content, this.user) == (that.ref, that.content, that.user)
                and (that.origin or "").startswith(f"{one.name}/{this.revision}/"),
                what=f"{that.ref} is not what was exported",
            )


async def main(bench: Bench) -> None:
    count = bench.size(100_000, 2_000, 1_000_000)
    found: list[Result] = []
    async with Blackboard.open(bench.url, "from", "bench") as board:
        await fill(board, count)
        copy = board.sibling(board="to")
        await copy.put("others", "there before")
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "out"
            async with timed(bench, "export", count, found, GOAL):
                done = await export(board.log, out)
            check(holds=done.lines == count, what=f"{done} of {count}")
            async with timed(bench, "import", count, found, GOAL):
                loaded = await load(copy.log, out)
            check(holds=loaded == Loaded(stored=count), what=str(loaded))
            async with timed(bench, "import again", count, found):
                loaded = await load(copy.log, out)
            check(holds=loaded == Loaded(there=count), what=str(loaded))
        tree, page = BytesIO(), BytesIO()
        async with (
            timed(bench, "report on one person, of", count, found),
            gathered(board, PERSON) as report,
        ):
            write_tree(report, tree)
            write_page(report, page)
        check(holds=report.head.summary.memories == count // 20, what="not all of the person")
        bench.table(f"{count:,} memories", found)
        sizes = f"{len(tree.getvalue()):,} bytes of JSON, {len(page.getvalue()):,} of HTML"
        bench.say(f"  the report: {sizes}")
        await compare(board, copy)
        bench.say("  the imported board compares equal")


if __name__ == "__main__":
    run("archive", __doc__, main, n=1)
