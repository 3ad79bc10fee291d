"""What `once` costs: a result that is there, one that is made, and one that many want at once.

    python perf/bench_once.py [--callers 32]

A hit without `topic` is a read; with `topic` it also puts the caller's light memory. A miss is a
lease, the work (nothing here), the result and the release. "Contended" is one key that nobody has
made yet, wanted by callers on connections of their own; the time is until the last one is served.
"""

import argparse
import uuid
from contextlib import AsyncExitStack

import anyio

from blackboard import Blackboard
from perf.harness import Bench, Case, Goal, at_most, run
from perf.raw import Raw, board_and_raw, body_of, text_of


async def main(bench: Bench) -> None:
    async with board_and_raw(bench.url) as (board, raw):
        await hits(bench, board, raw)
        await contended(bench)


async def hits(bench: Bench, board: Blackboard, raw: Raw) -> None:
    text = text_of()
    body = body_of(text)
    ref = await board.put("notes", text)

    async def make() -> str:
        return text

    async def publish(_: int) -> None:
        await raw.publish(f"raw.{uuid.uuid4().hex}", body)

    async def like_a_miss(number: int) -> None:
        """The requests that a miss cannot do without: two reads, lease, result, release."""
        await raw.get("MEM_bench", f"mem.bench.shared.bench.notes.{ref.id}")
        await raw.get("MEM_bench", f"mem.bench.shared.bench.notes.{ref.id}")
        for _ in range(3):
            await publish(number)
        await raw.client.publish("hint")

    await board.once("hit", "x", make)
    sum_goal = Goal(
        "<= 2.5 x get + 1.3 x raw publish", lambda p50: 2.5 * p50["get"] + 1.3 * p50["raw publish"]
    )
    cases = [
        Case("get", lambda _: board.get(ref)),
        Case("raw publish", publish),
        Case("hit", lambda _: board.once("hit", "x", make), goal=at_most(2.5, "get")),
        Case("hit, topic", lambda _: board.once("hit", "x", make, topic="t"), goal=sum_goal),
        Case("raw, as much as a miss", like_a_miss),
        Case("miss", lambda i: board.once("miss", i, make)),
        Case("miss, topic", lambda i: board.once("miss-topic", i, make, topic="t")),
    ]
    for case in cases:
        case.settle = board.journal.flush
    await bench.compare("one call", cases)


async def contended(bench: Bench) -> None:
    callers = bench.size(bench.options.callers, 4)
    made = 0
    asked: set[int] = set()

    async def make() -> str:
        nonlocal made
        made += 1
        return "made"

    async with AsyncExitStack() as stack:
        boards = [
            await stack.enter_async_context(Blackboard.open(bench.url, "bench", f"caller{number}"))
            for number in range(callers)
        ]

        async def all_of_them(number: int) -> None:
            asked.add(number)
            async with anyio.create_task_group() as group:
                for board in boards:
                    group.start_soon(one, board, number)

        async def one(board: Blackboard, number: int) -> None:
            await board.once("wanted", number, make, topic="t")

        case = Case(f"{callers} callers of one key", all_of_them, items=callers)
        await bench.compare("contended", [case], n=bench.size(100, 4))
    bench.say(f"made {made} times for {len(asked)} keys")
    if made != len(asked):
        raise AssertionError("nobody was killed, so each key should have been made once")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--callers", type=int, default=32, help="of one key")


if __name__ == "__main__":
    run("once", __doc__, main, n=600, arguments=arguments)
