"""From an input to its output through a handler in another process.

    python perf/bench_pipeline.py [--many 2000]

One at a time: put an input, wait until a watcher has the output. Many: inputs in a batch, until all
outputs are there, 32 at once. Raw is nats-py with a pull consumer, a publish and an acknowledgement
(it may do an input twice; a handler's outputs and the record of its input are one transaction);
"raw, careful" does the requests that such a transaction needs: two reads, an atomic batch of two.
"""

import argparse
import time
import uuid
from collections.abc import AsyncIterator

import anyio
from nats.js import JetStreamContext
from nats.js.api import DeliverPolicy

from blackboard import Blackboard, Memory
from perf.harness import Bench, Case, run
from perf.processes import child
from perf.raw import Raw, board_and_raw, body_of, text_of

ARRIVE_S = 120.0


async def next_of(memories: AsyncIterator[Memory], count: int) -> None:
    with anyio.fail_after(ARRIVE_S):
        for _ in range(count):
            await anext(memories)


async def next_raw(consumer: JetStreamContext.PushSubscription, count: int) -> None:
    for _ in range(count):
        await consumer.next_msg(timeout=ARRIVE_S)


async def one_at_a_time(bench: Bench, board: Blackboard, raw: Raw) -> None:
    text = text_of()
    body = body_of(text)
    live = await raw.js.subscribe(
        "raw.out.one.>", ordered_consumer=True, deliver_policy=DeliverPolicy.NEW
    )
    careful = await raw.js.subscribe(
        "raw.out.careful.>", ordered_consumer=True, deliver_policy=DeliverPolicy.NEW
    )
    async with board.watch("out.one") as memories:

        async def ours(_: int) -> None:
            await board.put("in.one", text)
            await next_of(memories, 1)

        async def plain(_: int) -> None:
            await raw.publish(f"raw.in.one.{uuid.uuid4().hex}", body)
            await next_raw(live, 1)

        async def with_care(_: int) -> None:
            await raw.publish(f"raw.in.careful.{uuid.uuid4().hex}", body)
            await next_raw(careful, 2)

        cases = [Case("raw", plain), Case("raw, careful", with_care), Case("handler", ours)]
        await bench.compare("one input at a time", cases)
    await live.unsubscribe()


async def many_at_once(bench: Bench, board: Blackboard, raw: Raw) -> None:
    count = bench.size(bench.options.many, 20)
    texts = [text_of()] * count
    bodies = [body_of(text) for text in texts]
    live = await raw.js.subscribe(
        "raw.out.many.>", ordered_consumer=True, deliver_policy=DeliverPolicy.NEW
    )
    taken: dict[str, list[float]] = {"raw": [], "handler": []}
    async with board.watch("out.many") as memories:
        for _ in range(bench.size(3, 1)):
            began = time.perf_counter()
            for first in range(0, count, 1000):
                await raw.batch("raw.in.many", bodies[first : first + 1000])
            await next_raw(live, count)
            taken["raw"].append(1000 * (time.perf_counter() - began))
            began = time.perf_counter()
            await board.put_many("in.many", texts)
            await next_of(memories, count)
            taken["handler"].append(1000 * (time.perf_counter() - began))
    await live.unsubscribe()
    base = bench.record(
        f"{count:,} at once: raw", taken["raw"], rate=1000 * count / min(taken["raw"])
    )
    rate = 1000 * count / min(taken["handler"])
    mine = bench.record(f"{count:,} at once: handler", taken["handler"], rate=rate, against=base)
    bench.table(f"{count:,} inputs at once, 32 in hand (rate in inputs)", [base, mine])


async def main(bench: Bench) -> None:
    async with board_and_raw(bench.url) as (board, raw), child("handlers", url=bench.url):
        await one_at_a_time(bench, board, raw)
        await many_at_once(bench, board, raw)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--many", type=int, default=2000, help="inputs at once")


if __name__ == "__main__":
    run("pipeline", __doc__, main, n=500, arguments=arguments)
