"""The ledger while stewards, and the broker, are killed: every read is counted, and once."""

import random
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from blackboard.codec import encode_record
from blackboard.errors import BlackboardError, UnavailableError
from blackboard.jetstream import Connection, consumers, refusal
from blackboard.ledger import Delivered, Denied, Follow, Privileged, Served
from blackboard.ledger.items import Gap
from blackboard.ledger.teller import Teller
from blackboard.records import ApiRequest
from blackboard.subjects import service_subject
from tests.credentials import BOARD
from tests.ledger_bench import Bench, grant, read_from
from tests.waiting import wait_until

ROOT = Path(__file__).parents[1]


@contextmanager
def steward(bench: Bench, log: str = "steward.log") -> Generator["subprocess.Popen[bytes]"]:
    """A real steward process with the operator's credential."""
    with (bench.folder / log).open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "blackboard.steward"],
            env={
                "BLACKBOARD_URL": bench.server.url,
                "BLACKBOARD_CREDENTIALS": str(bench.people.path("steward")),
                "BLACKBOARD_DATA": str(bench.folder),
                "BLACKBOARD_BROKER_LOG": str(bench.server.log),
                "PYTHONPATH": str(ROOT),
            },
            stdout=output,
            stderr=output,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("start", [1, 2])
async def test_stewards_are_killed_at_any_moment_and_every_read_is_counted_once(
    bench: Bench, start: int
) -> None:
    chance = random.Random(start)
    asked = 0

    async def reading(name: str) -> None:
        nonlocal asked
        async with bench.agent(name) as connection:
            while True:
                await connection.request(read_from(name, f"t{chance.randrange(9)}"))
                asked += 1
                await anyio.sleep(0.002)

    async with anyio.create_task_group() as group:
        group.start_soon(reading, "alice")
        group.start_soon(reading, "bob")
        for _ in range(4):
            # The second of them overlaps, so both write one chain for a while.
            with steward(bench) as first, steward(bench, "other.log"):
                await anyio.sleep(chance.uniform(1.0, 2.5))
                first.kill()
                await anyio.sleep(chance.uniform(0.0, 1.0))
        bench.server.kill()
        group.cancel_scope.cancel()
    bench.server.start()
    info = None
    while info is None:
        try:
            info = await bench.operator.stream(f"READS_{BOARD}")
        except BlackboardError:
            await anyio.sleep(0.1)
    stored = info.state.last_seq
    with steward(bench):

        async def all_there() -> bool:
            return await bench.reads() >= stored

        await wait_until(all_there, f"all {stored} reads are in the chain", 30)
    result = await bench.verified()
    info = await bench.operator.stream(f"READS_{BOARD}")

    assert info is not None
    assert result.findings == []
    # The steward's own attempts at forging are among them.
    assert await bench.reads() == info.state.last_seq
    assert await bench.items(Gap) == []
    # Two were on their way when the broker was killed, and those of its last milliseconds were not
    # yet written; a hundred are a fifth of a second here.
    assert stored >= asked - 100


async def test_refusals_are_counted_once_over_a_kill(bench: Bench) -> None:
    await grant(bench, "alice", "docs.>")

    async def count() -> int:
        found = [item for item in await bench.items(Denied) if isinstance(item, Denied)]
        assert {item.agent for item in found} <= {"alice"}
        return sum(item.count for item in found)

    async with bench.agent("alice") as alice:
        for expected in (3, 6):
            with steward(bench) as process:
                await wait_until(lambda: answers(alice), "the gate is open", 20)
                for _ in range(3):
                    await alice.client.publish(read_from("bob", "x"), b"")
                await alice.client.flush()

                async def counted(expected: int = expected) -> bool:
                    return await count() == expected

                await wait_until(counted, f"{expected} refusals are in the chain", 20)
                process.kill()
    assert (await bench.verified()).findings == []


async def answers(agent: Connection) -> bool:
    """Whether the gate serves an agent."""
    try:
        await ask(agent, f"STREAM.INFO.MEM_{BOARD}")
    except BlackboardError:
        return False
    return True


async def ask(agent: Connection, verb: str, body: dict[str, Any] | None = None) -> bytes:
    request = encode_record(ApiRequest(verb, body))
    answer = await agent.request(service_subject(BOARD, "api", "alice"), request, timeout_s=2)
    code = refusal(answer.headers, answer.data)
    if code is not None:
        raise UnavailableError(f"{code}")
    return answer.data


async def test_what_the_gate_serves_stands_in_the_chain(bench: Bench) -> None:
    await grant(bench, "alice", "docs.>")
    config = {"filter_subject": f"mem.{BOARD}.shared.*.docs.>", "deliver_policy": "new"}
    async with bench.agent("bob") as bob, bench.agent("alice") as alice:
        sequence = await bench.put(bob, "bob", "docs.a")
        with steward(bench):
            await wait_until(lambda: answers(alice), "the gate is open", 20)
            config["deliver_subject"] = f"_INBOX.{BOARD}.alice.x"
            await alice.client.subscribe(config["deliver_subject"], cb=ignore)  # pyright: ignore[reportUnknownMemberType]
            name = f"follow-{'a' * 32}"
            await ask(alice, f"CONSUMER.CREATE.MEM_{BOARD}.{name}", {"config": config})
            follows = await bench.items(Follow)  # before the answer came
            await ask(alice, f"DIRECT.GET.MEM_{BOARD}", {"seq": sequence})
            served = await bench.items(Served)
            later = await bench.put(bob, "bob", "docs.b")
            await wait_until(lambda: delivered(bench, name, later), "it was sent")
            await ask(alice, f"CONSUMER.DELETE.MEM_{BOARD}.{name}")
            await wait_until(lambda: bench.items(Delivered), "its end is in the chain")
            ends = await bench.items(Delivered)

    assert [getattr(item, "sequence", 0) for item in ends if getattr(item, "ended", False)] == [
        later
    ]
    granted = await bench.items(Privileged)
    assert [getattr(item, "what", "") for item in granted] == ["rights of alice"]
    assert [getattr(item, "consumer", "") for item in follows] == [name]
    assert [getattr(item, "after", 0) >= sequence for item in follows] == [True]
    assert [getattr(item, "revision", "") for item in served] == [sequence]


async def ignore(_: object) -> None:
    """Take what is sent."""


async def delivered(bench: Bench, consumer: str, sequence: int) -> bool:
    found = await consumers(bench.operator, f"MEM_{BOARD}")
    return any(one.name == consumer and one.delivered.stream_seq == sequence for one in found)


async def test_the_gate_is_closed_while_the_ledger_cannot_be_written(bench: Bench) -> None:
    await grant(bench, "alice", "docs.>")
    async with bench.agent("bob") as bob, bench.agent("alice") as alice:
        sequence = await bench.put(bob, "bob", "docs.a")
        with steward(bench):
            await wait_until(lambda: answers(alice), "the gate is open", 20)
            await ask(alice, f"DIRECT.GET.MEM_{BOARD}", {"seq": sequence})
            await bench.operator.delete_stream(f"LEDGER_{BOARD}")

            with pytest.raises(UnavailableError, match="so it was not done"):
                await ask(alice, f"DIRECT.GET.MEM_{BOARD}", {"seq": sequence})


async def test_other_services_tell_the_ledger_and_agents_may_not(bench: Bench) -> None:
    await grant(bench, "alice", "docs.>")
    item = Served(agent="alice", verb="recall", what="docs.>")
    async with bench.agent("alice") as alice:
        with steward(bench):
            await wait_until(lambda: answers(alice), "the gate is open", 20)
            await Teller(bench.operator, BOARD).noted(item)
            assert len(await bench.items(Served)) == 1

            with pytest.raises(UnavailableError, match="may not write to the ledger"):
                await Teller(alice, BOARD).noted(item)
        with pytest.raises(UnavailableError):
            await Teller(bench.operator, BOARD).noted(item)  # nobody records it
    assert len(await bench.items(Served)) == 1
