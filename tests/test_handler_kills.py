"""Agents and the broker are killed in the middle: nothing is lost, doubled or mixed."""

from collections import defaultdict
from pathlib import Path

from blackboard import Agent, Blackboard, Memory
from tests.replicas import replicas
from tests.servers import Server
from tests.settling import everything, settled, stored
from tests.waiting import wait_until


async def test_a_killed_agent_leaves_every_input_with_its_three_outputs_of_one_run(
    server: Server, board: Blackboard, tmp_path: Path
) -> None:
    with replicas(server.url, tmp_path) as start:
        workers = [start("tripler"), start("tripler")]
        for worker in workers:
            await worker.until("agent.running")
        await board.put_many("in.x", [f"item-{n}" for n in range(100)])
        for count in (30, 120, 210):
            await wait_until(
                lambda count=count: stored(board, "out.>", count), f"{count} outputs", timeout=20
            )
            victim = workers.pop(0)
            assert victim.running
            victim.kill()
            workers.append(start("tripler"))
        await settled(board, "tripler--triple")

    calls: defaultdict[str, set[str]] = defaultdict(set)
    outputs = await everything(board, "out.>")
    for memory in outputs:
        calls[memory.content["input"]].add(memory.content["call"])
    assert len(outputs) == 300
    assert len(calls) == 100
    assert all(len(of_input) == 1 for of_input in calls.values())
    assert all(memory.gone is None for memory in outputs)


async def test_killing_the_broker_under_load_loses_nothing_and_doubles_nothing(
    server: Server, board: Blackboard
) -> None:
    agent = Agent("copier")

    @agent.on("in", to="out", concurrency=8, ack_wait=2.0)
    async def copy(item: Memory, _: Blackboard) -> int:
        return item.content

    async with agent.running(board):
        await board.put_many("in", list(range(400)))
        for count in (50, 150, 250):
            await wait_until(
                lambda count=count: stored(board, "out.>", count), f"{count} outputs", timeout=20
            )
            server.kill()
            server.start()
        await wait_until(lambda: stored(board, "out.>", 400), "all outputs", timeout=30)

    outputs = await everything(board, "out")
    assert sorted(memory.content for memory in outputs) == list(range(400))


async def test_killing_the_broker_leaves_every_group_merged_once(
    server: Server, board: Blackboard
) -> None:
    agent = Agent("adder")

    @agent.gather("parts", by="session", until=3, to="out", concurrency=8, ack_wait=2.0)
    async def add(parts: list[Memory], _: Blackboard) -> int:
        return sum(part.content for part in parts)

    async with agent.running(board):
        parts = [Memory(content=n, session=f"g{g}") for n in range(3) for g in range(100)]
        await board.put_many("parts", parts)
        for count in (5, 40):
            await wait_until(
                lambda count=count: stored(board, "out.>", count), f"{count} groups", timeout=20
            )
            server.kill()
            server.start()
        await wait_until(lambda: stored(board, "out.>", 100), "all groups", timeout=30)
        await settled(board, "adder--add")

    outputs = await everything(board, "out")
    assert len(outputs) == 100
    assert len({memory.session for memory in outputs}) == 100
    assert all(memory.content == 3 for memory in outputs)
