"""How long one write takes until it is on disk: `put` beside a raw publish.

    python perf/bench_write.py [--size 256]

Raw is nats-py's `js.publish` to a new subject of a stream with the same settings. The second raw
line sends the same headers as `put` does: the price of headers at client library and broker.
"""

import argparse
import uuid
from datetime import timedelta
from functools import partial

from perf.harness import Bench, Case, at_most, run
from perf.raw import board_and_raw, body_of, text_of
from perf.servers import redis_server

DAY = timedelta(days=1)


async def main(bench: Bench) -> None:
    text = text_of(bench.options.size)
    body = body_of(text)
    kept: dict[str, bytes] = {}
    with redis_server() as redis:
        async with board_and_raw(bench.url) as (board, raw):

            def subject() -> str:
                return f"raw.bench.shared.bench.notes.{uuid.uuid4().hex}"

            def headers() -> dict[str, str]:
                return {
                    "Bb-Agent": "bench",
                    "Bb-Instance": board.session.instance,
                    "Bb-Write": uuid.uuid4().hex,
                    "Nats-Expected-Last-Subject-Sequence": "0",
                    "traceparent": "00-" + uuid.uuid4().hex + "-00f067aa0ba902b7-01",
                }

            place = partial(board.put, "notes", text)
            settle = board.journal.flush
            cases = [
                Case("raw publish", lambda _: raw.publish(subject(), body), bytes=len(body)),
                Case("raw, our headers", lambda _: raw.publish(subject(), body, headers())),
                Case("put", lambda _: place(), goal=at_most(1.3, "raw publish"), settle=settle),
                Case("put, new key", lambda i: place(key=f"new-{i}"), settle=settle),
                Case("put, same key", lambda i: place(key=f"k-{i % 100}"), settle=settle),
                Case("put, 1 day ttl", lambda _: place(ttl=DAY), settle=settle),
            ]
            if redis is not None:
                cases.append(
                    Case("Redis XADD, fsync", lambda _: redis.xadd("notes", {"content": text}))
                )
            cases.append(Case("dict", lambda i: kept.update({str(i): body}), plain=True))
            for case in cases:
                case.bytes = len(body)
            await bench.compare("one write", cases)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", type=int, default=256, help="characters of content")


if __name__ == "__main__":
    run("write", __doc__, main, n=2000, arguments=arguments)
