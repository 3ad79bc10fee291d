"""How long it takes to read one memory by reference: `get` beside a raw direct get.

    python perf/bench_read.py [--size 256]

Raw is nats-py's direct get by the full subject. `get` does not know the label, so it asks with one
token left open; for a shared key two are. "Raw, as wide" asks for the same filter: that part of the
price is the broker's. Light memories show the result of a `once`; the reader keeps 512 results, so
one of them is read warm and, in turns of more than that, cold. Also with many agents and labels.
"""

import argparse

from blackboard import Blackboard, Ref
from perf.harness import Bench, Case, at_most, run
from perf.raw import Raw, board_and_raw, text_of
from perf.servers import redis_server

LABELS = ("shared", "pii", "finance")
STREAM = "MEM_bench"


async def fill(board: Blackboard, agents: int, labels: int, text: str) -> list[Ref]:
    refs: list[Ref] = []
    for number in range(agents):
        for label in LABELS[:labels]:
            one = board.sibling(agent=f"agent{number}")
            refs += await one.put_many("notes", [text] * 20, access=label)
    return refs


async def lights(board: Blackboard, count: int, text: str) -> list[Ref]:
    def make() -> str:
        return text

    async def one(number: int) -> Ref:
        return (await board.once("work", number, make, topic="shown")).ref

    return [await one(number) for number in range(count)]


async def measure(bench: Bench, title: str, board: Blackboard, raw: Raw, refs: list[Ref]) -> None:
    text = text_of(bench.options.size)
    keys = [await board.put("notes", text, key=f"key-{number}") for number in range(20)]
    subjects = [await exact(board, ref) for ref in refs[:200]]
    wide = [f"mem.bench.*.{ref.agent}.notes.{ref.id}" for ref in refs]
    shown = await lights(board, bench.size(600, 5), text)
    settle = board.journal.flush
    goal = at_most(1.3, "raw direct get")

    def case(what: str, some: list[Ref], **more: object) -> Case:
        return Case(what, lambda i: board.get(some[i % len(some)]), settle=settle, **more)  # pyright: ignore[reportArgumentType]

    cases = [
        Case("raw direct get", lambda i: raw.get(STREAM, subjects[i % len(subjects)])),
        Case("raw, label open", lambda i: raw.get(STREAM, wide[i % len(wide)])),
        Case("raw, label and agent open", lambda i: raw.get(STREAM, key_filter(keys, i))),
        case("get", refs, goal=goal),
        case("get, pinned", [ref.pinned() for ref in refs]),
        case("get, shared key", keys, goal=at_most(2.5, "raw direct get")),
        case("get, light, warm", shown[:1]),
        case("get, light, cold", shown),
    ]
    with redis_server() as redis:
        if redis is not None:
            pool = redis
            await pool.set("note", text)
            cases.append(Case("Redis GET", lambda _: pool.get("note")))
        kept = dict.fromkeys(refs, text)
        cases.append(Case("dict", lambda i: kept[refs[i % len(refs)]], plain=True))
        for one in cases:
            one.bytes = len(text)
        await bench.compare(title, cases)


def key_filter(keys: list[Ref], number: int) -> str:
    return f"mem.bench.*.*.notes.{keys[number % len(keys)].id}"


async def exact(board: Blackboard, ref: Ref) -> str:
    label = (await board.get(ref)).access
    return f"mem.bench.{label}.{ref.agent}.notes.{ref.id}"


async def main(bench: Bench) -> None:
    text = text_of(bench.options.size)
    pools = [(1, 1), (bench.size(50, 2), 3), *([(1000, 3)] if bench.full else [])]
    async with board_and_raw(bench.url) as (board, raw):
        for agents, labels in pools:
            refs = await fill(board, agents, labels, text)
            title = f"one read, {agents} agents x {labels} labels"
            await measure(bench, title, board, raw, refs)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", type=int, default=256, help="characters of content")


if __name__ == "__main__":
    run("read", __doc__, main, n=2000, arguments=arguments)
