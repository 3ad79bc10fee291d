"""A thousand agents on one board: connect, be present, publish, be served.

    python perf/bench_agents.py [--agents 1000] [--processes 4]

Each agent has a connection, a durable consumer and a card of its own; processes hold hundreds of
them. "Served" is one memory that every agent handles, its commit included. At the end: what an
agent costs at rest, and what ten times as many would take by that.
"""

import argparse
import asyncio
import os
import time
from contextlib import AsyncExitStack

import anyio
import psutil

from blackboard import Blackboard
from blackboard.runtime.presence import list_cards
from perf.harness import Bench, run
from perf.processes import Child, child

IDLE_S = 10.0
PRESENT_S = 30.0
SERVE_S = 120.0
MIB = 1 << 20


async def together(children: list[Child], word: str) -> list[list[float]]:
    return await asyncio.gather(*(running.ask(word) for running in children))


async def timed(bench: Bench, what: str, children: list[Child], word: str) -> None:
    began = time.perf_counter()
    times = [moment for some in await together(children, word) for moment in some]
    bench.record(what, times, rate=len(times) / (time.perf_counter() - began))


async def present(bench: Bench, board: Blackboard, agents: int) -> None:
    times: list[float] = []
    with anyio.fail_after(PRESENT_S):
        while len(times) < 5:
            began = time.perf_counter()
            if len(await list_cards(board.log)) == agents:
                times.append(1000 * (time.perf_counter() - began))
    bench.record(f"list {agents:,} cards", times)


async def serve(bench: Bench, board: Blackboard, children: list[Child], agents: int) -> None:
    rounds = bench.size(3, 1)
    ages: list[float] = []
    began = time.perf_counter()
    with anyio.fail_after(SERVE_S):
        for done in range(1, rounds + 1):
            await board.put("news", time.monotonic_ns())
            while len(ages) < done * agents:
                await anyio.sleep(0.1)
                ages = [age for some in await together(children, "ages") for age in some]
    rate = rounds * agents / (time.perf_counter() - began)
    bench.record(f"put to {agents:,} handlers", ages, rate=rate)


async def rest(bench: Bench, children: list[Child], agents: int) -> None:
    """Measure what they use while nothing happens, and say what follows from it."""
    server = psutil.Process(bench.server.pid)
    before = await together(children, "use")
    served = sum(server.cpu_times()[:2])
    await anyio.sleep(bench.size(int(IDLE_S), 1))
    after = await together(children, "use")
    seconds = float(bench.size(int(IDLE_S), 1))
    client_cpu = (sum(use[1] for use in after) - sum(use[1] for use in before)) / seconds
    server_cpu = (sum(server.cpu_times()[:2]) - served) / seconds
    client = sum(use[0] for use in after) / agents
    broker = server.memory_info().rss / agents
    cores, memory = os.cpu_count() or 1, psutil.virtual_memory().total
    bench.say(
        f"at rest: {client / MIB:.2f} MiB of client and {broker / MIB:.2f} MiB of broker an agent; "
        f"CPU of {cores} cores: agents {client_cpu:.2f}, broker {server_cpu:.2f}; "
        f"{server.num_fds()} files open at the broker"
    )
    room = memory / (client + broker)
    most = min(room, agents * cores / max(1e-9, client_cpu + server_cpu))
    short = "memory" if most == room else "processor time, at rest"
    bench.say(
        f"next limit here: {short}, at about {most:,.0f} agents. Ten times as many as now would "
        f"take {10 * agents * (client + broker) / (1 << 30):.1f} GiB, "
        f"{10 * (client_cpu + server_cpu):.1f} cores, {10 * server.num_fds():,} open files"
    )


async def main(bench: Bench) -> None:
    processes = bench.size(bench.options.processes, 2)
    each = bench.size(bench.options.agents, 6) // processes
    agents = each * processes
    async with Blackboard.open(bench.url, "bench", "bench") as board, AsyncExitStack() as stack:
        children = [
            await stack.enter_async_context(
                child("inhabitants", url=bench.url, first=one * each, count=each)
            )
            for one in range(processes)
        ]
        await timed(bench, "connect and begin", children, "enter")
        await present(bench, board, agents)
        await timed(bench, "put, all at once", children, "publish")
        await serve(bench, board, children, agents)
        bench.table(f"{agents:,} agents in {processes} processes", bench.results)
        await rest(bench, children, agents)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--agents", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=4)


if __name__ == "__main__":
    run("agents", __doc__, main, n=1, arguments=arguments)
