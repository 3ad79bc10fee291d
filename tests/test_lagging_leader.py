"""A leader that has not stored yet what the others have, or what it has sent to them itself.

Both were found by the fault runs: an input was taken for removed and acknowledged without outputs,
and a write met its own first try and was reported as a conflict.
"""

import os
import signal
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import anyio
import anyio.to_thread
import msgspec
import pytest
from nats.aio.msg import Msg

from blackboard import Blackboard, Memory
from blackboard.errors import ConflictError, UnavailableError
from blackboard.jetstream import Connection
from blackboard.jetstream.requests import subscribe
from blackboard.sender import TRY_S
from blackboard.settings import Limits
from blackboard.subjects import reference_filter
from tests.clusters import Cluster, step_down
from tests.servers import Server
from tests.settling import everything
from tests.waiting import wait_until

STREAM = "MEM_main"
REFUSAL = b'{"error":{"code":400,"err_code":10071,"description":"wrong last sequence: 0"}}'
CHANGES = 8


@pytest.fixture
async def board(cluster: Cluster) -> AsyncGenerator[Blackboard]:
    """A replicated board through the server that leads it."""
    async with Blackboard.open(cluster.url, agent="alice", limits=Limits(replicas=3)) as first:
        await first.put("begin", 0)
        async with Blackboard.open(cluster.leader(STREAM).url, agent="alice") as board:
            yield board


@contextmanager
def standing_still(servers: list[Server]) -> Generator[None]:
    for server in servers:
        os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for server in servers:
            os.kill(server.pid, signal.SIGCONT)


async def test_a_write_does_not_conflict_with_its_own_first_try(
    cluster: Cluster, board: Blackboard
):
    followers = cluster.followers(STREAM)
    await board.put("state.x", 1, key="x", expected=0)  # it knows now that there are replicas
    before = await board.get("*/state.x/x")
    async with anyio.create_task_group() as group:
        with standing_still(followers):
            group.start_soon(board.put, "notes", "new")
            group.start_soon(lambda: board.revise("*/state.x/x", 2, expected=before.revision))
            group.start_soon(board.put_many, "many", ["a", "b"])
            # Time for a second try, which the leader refuses: the first is on its way.
            await anyio.sleep(2 * TRY_S)

    assert [memory.content for memory in await everything(board, "notes")] == ["new"]
    assert [memory.content for memory in await everything(board, "state.x")] == [1, 2]
    assert [memory.content for memory in await everything(board, "many")] == ["a", "b"]


async def test_the_refusal_of_a_server_that_was_deposed_is_no_conflict(
    cluster: Cluster, board: Blackboard
):
    refusals = 0

    async def refuse(msg: Msg) -> None:
        nonlocal refusals
        refusals += 1
        await msg.respond(REFUSAL)

    await board.put("state.n", 0, key="n")
    async with Connection.open(cluster.url) as deposed:
        # As one that has not noticed does, it answers besides the leader, and sooner.
        await subscribe(deposed.client, "mem.main.shared.alice.>", refuse)
        await deposed.client.flush()
        refs = [await board.put("notes", number) for number in range(5)]
        for _ in range(5):
            await board.update("*/state.n/n", lambda memory: 1 + (memory.content if memory else 0))
        await board.put_many("many", ["a", "b"])
        with pytest.raises(ConflictError):
            await board.put("state.n", 9, key="n", expected=refs[0].written)

    assert refusals > 10
    assert [memory.content for memory in await everything(board, "notes")] == list(range(5))
    assert [memory.content for memory in await everything(board, "state.n")] == list(range(6))
    assert [memory.content for memory in await everything(board, "many")] == ["a", "b"]


async def test_that_there_is_nothing_counts_once_the_leader_has_come_as_far_as_was_delivered(
    board: Blackboard,
):
    reads = board.log.reads
    ref = await board.put("notes", "early")
    subject = reference_filter("main", ref)
    assert ref.written is not None
    found: list[Memory] = []

    async def look(least: int) -> None:
        message = await reads.last(subject, least)
        assert message is not None
        found.append(board.log.check(message, subject))

    async with anyio.create_task_group() as group:
        # As after a delivery by a server that is ahead of the leader.
        group.start_soon(look, ref.written + 1)
        await anyio.sleep(1.0)  # beyond the patience with a replica that lags
        assert found == []
        await board.revise(ref, "late", expected=ref.written)

    assert [memory.content for memory in found] == ["late"]


@pytest.mark.faults
async def test_a_leader_that_stays_behind_is_no_proof_that_there_is_nothing(board: Blackboard):
    ref = await board.put("notes", "early")
    reads = board.log.reads
    ahead = (ref.written or 0) + 1000
    reads.saw(ahead)

    with pytest.raises(UnavailableError, match="has not stored"):
        await reads.last(reference_filter("main", ref), ahead)
    with pytest.raises(UnavailableError, match="has not stored"):
        await reads.at_sequence(ahead)


async def test_a_sequence_that_somebody_made_up_is_not_waited_for(board: Blackboard):
    ref = await board.put("notes", "one")

    with anyio.fail_after(2):
        assert await board.log.reads.at_sequence((ref.written or 0) + 1000) is None


@pytest.mark.faults
async def test_a_watcher_leaves_a_server_that_does_not_get_on(board: Blackboard):
    connection = board.log.connection
    seen: list[str] = []

    async def follow(memories: AsyncIterator[Memory]) -> None:
        async for memory in memories:
            seen.append(memory.content)  # noqa: PERF401 - as they come

    async with board.watch("notes") as memories, anyio.create_task_group() as group:
        group.start_soon(follow, memories)
        await board.put("notes", "one")
        await wait_until(lambda: seen == ["one"], "it follows")
        # A paused consumer does what one on a stuck replica does: it beats, and delivers nothing.
        names = msgspec.json.decode(await connection.api(f"CONSUMER.NAMES.{STREAM}"))["consumers"]
        (own,) = [name for name in names if name.startswith("follow-")]
        until = {"pause_until": (datetime.now(UTC) + timedelta(hours=1)).isoformat()}
        await connection.api(f"CONSUMER.PAUSE.{STREAM}.{own}", until)

        async def paused() -> bool:
            info = msgspec.json.decode(await connection.api(f"CONSUMER.INFO.{STREAM}.{own}"))
            return info.get("paused", False)

        await wait_until(paused, "the consumer is paused")
        await board.put("notes", "two")
        await wait_until(lambda: seen == ["one", "two"], "it goes on elsewhere", timeout=30)
        await board.put("notes", "three")
        await wait_until(lambda: seen == ["one", "two", "three"], "it goes on", timeout=30)
        group.cancel_scope.cancel()


async def test_a_stream_can_be_asked_for_while_its_leader_changes(
    cluster: Cluster, board: Blackboard
):
    connection = board.log.connection
    for _ in range(CHANGES):
        await anyio.to_thread.run_sync(cluster.leader, STREAM)
        await step_down(connection, STREAM)
        with anyio.fail_after(4):
            info = await connection.stream(STREAM)

        assert info is not None
