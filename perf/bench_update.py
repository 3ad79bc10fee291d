"""Counting up one shared key from several connections at once: `update` beside nats-py's KV bucket.

    python perf/bench_update.py [--writers 8]

Every increment reads, adds one, and writes if nobody was faster, again if somebody was. Raw does
that with `get` and `update(last=)` of a KV bucket on disk, once without a pause and once with the
same jitter as ours. Times are of one increment, conflicts and waiting included.
"""

import argparse
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import anyio
from nats.js.api import KeyValueConfig
from nats.js.errors import KeyWrongLastSequenceError
from nats.js.kv import KeyValue

from blackboard import Blackboard, Memory, Ref
from perf.harness import Bench, run
from perf.raw import raw_client

Count = Callable[[], Awaitable[None]]


async def together(writers: list[Count], times: int) -> tuple[list[float], float]:
    taken: list[float] = []

    async def one(count: Count) -> None:
        for _ in range(times):
            began = time.perf_counter()
            await count()
            taken.append(1000 * (time.perf_counter() - began))

    began = time.perf_counter()
    async with anyio.create_task_group() as group:
        for writer in writers:
            group.start_soon(one, writer)
    return taken, len(taken) / (time.perf_counter() - began)


def counting(board: Blackboard) -> Count:
    ref = Ref.parse("*/state.counter/n")

    def add(memory: Memory | None) -> int:
        return 1 if memory is None else memory.content + 1

    async def count() -> None:
        await board.update(ref, add)

    return count


def counting_raw(bucket: KeyValue, jitter_s: float) -> Count:
    async def count() -> None:
        attempt = 0
        while True:
            entry = await bucket.get("n")
            try:
                await bucket.update(
                    "n", b"%d" % (int(entry.value or b"0") + 1), last=entry.revision
                )
            except KeyWrongLastSequenceError:
                attempt += 1
                await anyio.sleep(random.uniform(0, min(0.05, jitter_s * attempt)))
            else:
                return

    return count


async def main(bench: Bench) -> None:
    number = bench.size(bench.options.writers, 3)
    times = max(1, bench.options.n // bench.options.rounds // number)
    async with AsyncExitStack() as stack:
        raws = [await stack.enter_async_context(raw_client(bench.url)) for _ in range(number)]
        config = KeyValueConfig(bucket="counter", history=64)
        bucket = await raws[0].js.create_key_value(config)  # pyright: ignore[reportUnknownMemberType]
        await bucket.put("n", b"0")
        buckets = [await raw.js.key_value("counter") for raw in raws]
        boards = [
            await stack.enter_async_context(Blackboard.open(bench.url, "bench", f"w{one}"))
            for one in range(number)
        ]
        ways: dict[str, list[Count]] = {
            "raw KV, at once again": [counting_raw(one, 0.0) for one in buckets],
            "raw KV, our jitter": [counting_raw(one, 0.005) for one in buckets],
            "update": [counting(board) for board in boards],
            "update, one writer": [counting(boards[0])],
        }
        taken: dict[str, list[float]] = {way: [] for way in ways}
        rates: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(bench.options.rounds):
            for way, writers in ways.items():
                some, rate = await together(writers, times)
                taken[way] += some
                rates[way].append(rate)
        results = [
            bench.record(way, taken[way], rate=sorted(rates[way])[len(rates[way]) // 2])
            for way in ways
        ]
        bench.table(f"increments of one key by {number} writers (rate of all together)", results)
        value = (await boards[0].get("*/state.counter/n")).content
        ours = len(taken["update"]) + len(taken["update, one writer"])
        bench.say(f"the counter says {value}, {ours} increments were made")
        if value != ours:
            raise AssertionError("an increment was lost")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--writers", type=int, default=8)


if __name__ == "__main__":
    run("update", __doc__, main, n=1600, rounds=5, arguments=arguments)
