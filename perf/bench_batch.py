"""How many memories a second go to disk in atomic batches of 1,000: `put_many` beside raw batches.

    python perf/bench_batch.py [--size 256] [--batch 1000]

Raw is nats-py publishing an atomic batch with the headers that the broker needs, each message on a
new subject and expected to be the first there, as `put_many` has it. Times are of whole batches,
rates of memories.
"""

import argparse

from perf.harness import Bench, Case, Goal, run
from perf.raw import board_and_raw, body_of, text_of
from perf.servers import redis_server


async def main(bench: Bench) -> None:
    size = bench.size(bench.options.batch, 20)
    texts = [text_of(bench.options.size)] * size
    bodies = [body_of(text) for text in texts]
    with redis_server() as redis:
        async with board_and_raw(bench.url) as (board, raw):
            cases = [
                Case("raw atomic batch", lambda _: raw.batch("raw.bench.shared.bench.b", bodies)),
                Case(
                    "put_many",
                    lambda _: board.put_many("notes", texts),
                    goal=Goal("rate >= 0.7 x raw", lambda p50: p50["raw atomic batch"] / 0.7),
                    settle=board.journal.flush,
                ),
            ]
            if redis is not None:
                pool = redis

                async def pipelined(_: int) -> None:
                    async with pool.pipeline(transaction=False) as pipe:
                        for text in texts:
                            pipe.xadd("notes", {"content": text})
                        await pipe.execute()

                cases.append(Case("Redis XADD, pipelined, fsync", pipelined))
            for case in cases:
                case.items, case.bytes = size, len(bodies[0])
            await bench.compare(f"batches of {size}", cases)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", type=int, default=256, help="characters of content")
    parser.add_argument("--batch", type=int, default=1000, help="memories in a batch")


if __name__ == "__main__":
    run("batch", __doc__, main, n=60, arguments=arguments)
