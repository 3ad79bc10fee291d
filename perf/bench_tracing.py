"""What recording spans costs: off, one trace in a hundred, always.

    python perf/bench_tracing.py

Three boards over three connections that differ in BLACKBOARD_TRACE_RATIO only. Audit is always on.
"Busy" is 200 calls by 20 tasks, with the batches of audit and spans written within the time: what a
process that does nothing else has to pay.
"""

import os
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial

import anyio

from blackboard import Blackboard, Ref
from perf.harness import Bench, Case, at_most, run
from perf.raw import text_of

RATIOS = {"off": ("0", None), "1 %": ("0.01", 1.05), "always": ("1", 1.3)}
TASKS, CALLS = 20, 10


async def opened(url: str, ratio: str, stack: AsyncExitStack) -> Blackboard:
    before = os.environ.get("BLACKBOARD_TRACE_RATIO")
    os.environ["BLACKBOARD_TRACE_RATIO"] = ratio
    try:
        return await stack.enter_async_context(Blackboard.open(url, "bench", "bench"))
    finally:
        if before is None:
            del os.environ["BLACKBOARD_TRACE_RATIO"]
        else:
            os.environ["BLACKBOARD_TRACE_RATIO"] = before


async def busy(board: Blackboard, ref: Ref) -> None:
    async def one() -> None:
        for _ in range(CALLS):
            await board.get(ref)

    async with anyio.create_task_group() as group:
        for _ in range(TASKS):
            group.start_soon(one)
    await board.journal.flush()


def cases(what: str, boards: dict[str, Blackboard], ref: Ref) -> list[Case]:
    calls: dict[str, Callable[[Blackboard], Awaitable[object]]] = {
        "put": lambda board: board.put("notes", text_of()),
        "get": lambda board: board.get(ref),
        "busy": lambda board: busy(board, ref),
    }
    made: list[Case] = []
    for name, board in boards.items():
        factor = RATIOS[name][1]
        goal = None if factor is None else at_most(factor, "off")
        call = partial(calls[what], board)
        case = Case(name, lambda _, call=call: call(), goal=goal, settle=board.journal.flush)
        case.items = TASKS * CALLS if what == "busy" else 1
        made.append(case)
    return made


async def main(bench: Bench) -> None:
    async with AsyncExitStack() as stack:
        boards = {name: await opened(bench.url, RATIOS[name][0], stack) for name in RATIOS}
        ref = await boards["off"].put("notes", text_of())
        for what, n in (("put", None), ("get", None), ("busy", bench.size(200, 4))):
            await bench.compare(what, cases(what, boards, ref), n=n)


if __name__ == "__main__":
    run("tracing", __doc__, main, n=3000, rounds=20)
