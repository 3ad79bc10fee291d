"""A write whose answer is lost is found out by reading back: no false conflict, nothing twice."""

from collections.abc import AsyncGenerator, Callable, Coroutine

import anyio
import pytest

from blackboard import Blackboard, Memory, Ref
from blackboard.errors import ConflictError, UnavailableError
from tests.programs.kill_proxy import Wire, open_wire
from tests.servers import Server
from tests.waiting import wait_until

REQUEST = b"Bb-Write"
COMMIT = b"Nats-Batch-Commit"
KEY = Ref.parse("*/jobs/the-key")


@pytest.fixture
async def wire(server: Server) -> AsyncGenerator[Wire]:
    async with open_wire(server.url) as wire:
        yield wire


@pytest.fixture
async def writer(wire: Wire) -> AsyncGenerator[Blackboard]:
    async with Blackboard.open(wire.url, agent="writer") as board:
        yield board


@pytest.fixture
async def other(server: Server, writer: Blackboard) -> AsyncGenerator[Blackboard]:
    async with Blackboard.open(server.url, board=writer.name, agent="other") as board:
        yield board


def one_more(memory: Memory | None) -> int:
    return 1 if memory is None else int(memory.content) + 1


async def revisions(board: Blackboard, pattern: str) -> list[Memory]:
    async with board.replay(pattern) as memories:
        return [memory async for memory in memories]


async def put(board: Blackboard, _: Ref) -> object:
    return await board.put("jobs", 2)


async def put_key(board: Blackboard, before: Ref) -> object:
    return await board.put("jobs", 2, key="the-key", expected=before.written)


async def revise(board: Blackboard, before: Ref) -> object:
    return await board.revise(before, 2, expected=before.written)


async def update(board: Blackboard, before: Ref) -> object:
    return await board.update(before, one_more)


async def retire(board: Blackboard, before: Ref) -> object:
    return await board.retire(before)


async def put_many(board: Blackboard, _: Ref) -> object:
    return await board.put_many("jobs", [2, 3, 4])


async def reclassify(board: Blackboard, before: Ref) -> object:
    return await board.reclassify(before, "pii")


Act = Callable[[Blackboard, Ref], Coroutine[None, None, object]]


@pytest.mark.parametrize(
    ("act", "stored", "marker"),
    [
        (put, 1, REQUEST),
        (put_key, 1, REQUEST),
        (revise, 1, REQUEST),
        (update, 1, REQUEST),
        (retire, 1, REQUEST),
        (put_many, 3, COMMIT),
        (reclassify, 2, COMMIT),
    ],
)
@pytest.mark.parametrize("losing", ["answer", "request"])
async def test_a_write_without_an_answer_succeeds_once(
    wire: Wire,
    writer: Blackboard,
    other: Blackboard,
    act: Act,
    stored: int,
    marker: bytes,
    losing: str,
):
    async def is_stored() -> bool:
        return len(await revisions(other, "jobs")) == 1 + stored

    before = await writer.put("jobs", 1, key="the-key")
    if losing == "answer":
        wire.lose_answer(marker)
    else:
        wire.lose_request(marker)
    async with anyio.create_task_group() as group:
        group.start_soon(act, writer, before)
        await wire.seen.wait()
        if losing == "answer":
            await wait_until(is_stored, "the write is stored")
        await wire.cut()

    assert await is_stored()


@pytest.mark.parametrize("act", [put_key, revise])
async def test_a_conflict_after_a_lost_request_is_still_a_conflict(
    wire: Wire, writer: Blackboard, other: Blackboard, act: Act
):
    before = await writer.put("jobs", 1, key="the-key")
    wire.lose_request(REQUEST)

    async def lose() -> None:
        with pytest.raises(ConflictError):
            await act(writer, before)

    async with anyio.create_task_group() as group:
        group.start_soon(lose)
        await wire.seen.wait()
        await other.put("jobs", 3, key="the-key")
        await wire.cut()

    assert [memory.content for memory in await revisions(other, "jobs")] == [1, 3]


async def test_an_update_whose_request_is_lost_works_on_what_another_wrote_meanwhile(
    wire: Wire, writer: Blackboard, other: Blackboard
):
    await writer.put("jobs", 1, key="the-key")
    wire.lose_request(REQUEST)
    async with anyio.create_task_group() as group:
        group.start_soon(update, writer, KEY)
        await wire.seen.wait()
        await other.update(KEY, one_more)
        await wire.cut()

    assert [memory.content for memory in await revisions(other, "jobs")] == [1, 2, 3]


async def test_an_update_is_not_applied_twice_when_its_revision_was_overrun_meanwhile(
    server: Server, wire: Wire, writer: Blackboard
):
    await writer.put("jobs", 1, key="the-key")
    wire.lose_answer(REQUEST)
    outcome: list[str] = []

    async def count() -> None:
        try:
            await writer.update(KEY, one_more)
        except UnavailableError:
            outcome.append("unsure")
        else:
            outcome.append("done")

    async with Blackboard.open(server.url, agent="writer") as replica:

        async def counted() -> bool:
            return (await replica.get(KEY)).content == 2

        async with anyio.create_task_group() as group:
            group.start_soon(count)
            await wire.seen.wait()
            await wait_until(counted, "the update is stored")
            for _ in range(70):
                await replica.update(KEY, one_more)
            await wire.cut()
        memory = await replica.get(KEY)

    # Nobody can know any more what became of it, so it may say that, but not do it again.
    assert outcome == ["unsure"]
    assert memory.content == 72


async def test_a_batch_that_breaks_in_the_middle_is_stored_whole_and_once(
    wire: Wire, writer: Blackboard, other: Blackboard
):
    contents = [f"{number:04}" + "x" * 20_000 for number in range(1000)]
    wire.lose_request(b"Nats-Batch-Sequence: 300")
    async with anyio.create_task_group() as group:
        group.start_soon(writer.put_many, "jobs", contents)
        await wire.seen.wait()
        await wire.cut()

    assert [memory.content for memory in await revisions(other, "jobs")] == contents
