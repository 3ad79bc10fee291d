"""From the call of `put` to the moment another process has the memory in hand.

    python perf/bench_notify.py [--rate 1:100 20:50 1000:10]

Watchers of one topic sit in two other processes (one, for one watcher), up to ten connections in
each. Raw is nats-py: `js.publish` to as many ordered consumers. Puts are paced, ours and raw taking
turns. The writers' own times are shown too, because the broker fans out on the path of the write.
"""

import argparse
import time
import uuid
from contextlib import AsyncExitStack

import anyio
import msgspec

from blackboard import Blackboard
from perf.harness import Bench, run
from perf.processes import Child, child
from perf.raw import Raw, board_and_raw

GOAL_MS = 5.0
ARRIVE_S = 30.0


async def pace(
    board: Blackboard, raw: Raw, count: int, rate: float
) -> tuple[list[float], list[float]]:
    ours: list[float] = []
    plain: list[float] = []
    due = anyio.current_time()
    for _ in range(count):
        due += 1 / rate
        await anyio.sleep_until(due)
        began = time.monotonic_ns()
        await board.put("notify", began)
        ours.append((time.monotonic_ns() - began) / 1e6)
        due += 1 / rate
        await anyio.sleep_until(due)
        began = time.monotonic_ns()
        body = msgspec.json.encode({"content": began})
        await raw.publish(f"raw.notify.{uuid.uuid4().hex}", body)
        plain.append((time.monotonic_ns() - began) / 1e6)
    return ours, plain


async def gathered(children: list[Child], expected: int) -> dict[str, list[float]]:
    with anyio.fail_after(ARRIVE_S):
        while True:
            counts = [await one.ask("count") for one in children]
            if all(sum(count[way] for count in counts) >= expected for way in ("ours", "raw")):
                break
            await anyio.sleep(0.05)
    said = [await one.ask("report") for one in children]
    ages = {way: [age for one in said for age in one[way]] for way in ("ours", "raw")}
    for way, some in ages.items():
        if len(some) != expected:
            raise AssertionError(f"{way}: {len(some)} notifications, expected {expected}")
    return ages


async def measure(bench: Bench, board: Blackboard, raw: Raw, watchers: int, rate: float) -> None:
    processes = min(2, watchers)
    each = watchers // processes
    async with AsyncExitStack() as stack:
        children = [
            await stack.enter_async_context(
                child("watchers", url=bench.url, watchers=each, connections=min(10, each))
            )
            for _ in range(processes)
        ]
        count = bench.size(min(bench.options.n, int(10 * rate)), 5)
        await pace(board, raw, max(2, count // 10), rate)
        await gathered(children, processes * each * max(2, count // 10))
        ours, plain = await pace(board, raw, count, rate)
        ages = await gathered(children, processes * each * count)
    with_watchers = f"{watchers:,} watchers"
    base = bench.record(f"{with_watchers}: raw, publish to in hand", ages["raw"], rate=rate)
    mine = bench.record(f"{with_watchers}: put to in hand", ages["ours"], rate=rate, against=base)
    if watchers == 20:
        mine.goal, mine.met = f"p95 <= {GOAL_MS:g} ms", mine.p95 <= GOAL_MS
    wrote = bench.record(f"{with_watchers}: raw publish itself", plain, rate=rate)
    put = bench.record(f"{with_watchers}: put itself", ours, rate=rate, against=wrote)
    bench.table(f"{with_watchers} of one topic, {rate:g} puts/s", [base, mine, wrote, put])


async def main(bench: Bench) -> None:
    async with board_and_raw(bench.url) as (board, raw):
        for pair in bench.options.rate if not bench.tiny else ("1:100", "4:50"):
            watchers, _, rate = pair.partition(":")
            await measure(bench, board, raw, int(watchers), float(rate))


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--rate",
        nargs="+",
        default=["1:100", "20:50", "1000:10"],
        help="WATCHERS:PUTS_PER_SECOND (%(default)s)",
    )


if __name__ == "__main__":
    run("notify", __doc__, main, n=500, arguments=arguments)
