"""A local view: how long one read of it takes, and how long it takes to load.

    python perf/bench_view.py [--memories 100000]

Loading is compared with an ordered consumer of nats-py that decodes the same messages into a dict,
and nothing else. A put is also timed until the view of the same process shows it.
"""

import argparse
import time
from contextlib import AsyncExitStack

import msgspec

from blackboard import Blackboard
from perf.harness import Bench, Case, Goal, run
from perf.raw import Raw, board_and_raw, text_of


async def load_raw(raw: Raw, count: int) -> float:
    began = time.perf_counter()
    found: dict[str, object] = {}
    consumer = await raw.js.subscribe("mem.bench.*.*.notes.*", ordered_consumer=True)
    async for message in consumer.messages:
        found[message.subject] = msgspec.json.decode(message.data)
        if len(found) == count:
            break
    seconds = time.perf_counter() - began
    await consumer.unsubscribe()
    return seconds


async def load(board: Blackboard, count: int) -> float:
    began = time.perf_counter()
    async with board.view("notes") as view:
        seconds = time.perf_counter() - began
        if len(view) != count:
            raise AssertionError(f"the view holds {len(view)} of {count}")
    return seconds


async def main(bench: Bench) -> None:
    count = bench.size(bench.options.memories, 200)
    async with board_and_raw(bench.url) as (board, raw), AsyncExitStack() as stack:
        refs = await board.put_many("notes", [text_of()] * count)
        plain: list[float] = []
        ours: list[float] = []
        for _ in range(bench.size(3, 1)):
            plain.append(1000 * await load_raw(raw, count))
            ours.append(1000 * await load(board, count))
            await board.journal.flush()
        rate = 1000 * count / min(plain)
        base = bench.record(f"raw load of {count:,}", plain, rate=rate)
        rate = 1000 * count / min(ours)
        mine = bench.record(f"view load of {count:,}", ours, rate=rate, against=base)
        bench.table("loading (rate in memories)", [base, mine])
        view = await stack.enter_async_context(board.view("notes"))
        fresh = await stack.enter_async_context(board.view("fresh"))

        async def shown(_: int) -> None:
            ref = await board.put("fresh", "x")
            while ref not in fresh:
                await fresh.changed()

        kept = dict.fromkeys(refs, text_of())
        cases = [
            Case("dict", lambda i: kept[refs[i % count]], plain=True),
            Case(
                "view[ref]",
                lambda i: view[refs[i % count]],
                plain=True,
                goal=Goal("<= 5 us", lambda _: 0.005),
            ),
            Case("get", lambda i: board.get(refs[i % count])),
            Case("put, until the view has it", shown),
        ]
        await bench.compare("one read", cases)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--memories", type=int, default=100_000)


if __name__ == "__main__":
    run("view", __doc__, main, n=1000, arguments=arguments)
