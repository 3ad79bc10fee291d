"""Boards on three servers: reads are never older than what was seen, and a leader may die."""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import anyio
import msgspec
import pytest

from blackboard import Agent, Blackboard, Memory, Ref, alteration, fresh
from blackboard.errors import (
    ConflictError,
    GoneError,
    NotFoundError,
    RetryableError,
    UnavailableError,
)
from blackboard.layout import limits_of
from blackboard.settings import Limits
from blackboard.subjects import reference_filter
from tests.clusters import Cluster, step_down
from tests.settling import everything
from tests.waiting import wait_until

STREAM = "MEM_main"
THREE = Limits(replicas=3)
ROUNDS = 500
FAILOVER_S = 15.0


@pytest.fixture
async def board(cluster: Cluster) -> AsyncGenerator[Blackboard]:
    """A replicated board of agent `alice`, over all addresses."""
    async with Blackboard.open(cluster.url, agent="alice", limits=THREE) as board:
        yield board


@asynccontextmanager
async def at_each(cluster: Cluster) -> AsyncGenerator[list[Blackboard]]:
    """The board through the leader and through each of the others; agents `m0`, `m1`, `m2`."""
    members = [cluster.leader(STREAM), *cluster.followers(STREAM)]
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(Blackboard.open(member.url, agent=f"m{number}"))
            for number, member in enumerate(members)
        ]


def one_more(memory: Memory | None) -> int:
    return 1 if memory is None else int(memory.content) + 1


async def keep_busy(board: Blackboard) -> None:
    while True:
        await board.put("noise", "x" * 1000)


async def increment(board: Blackboard, ref: str, times: int) -> None:
    for _ in range(times):
        await board.update(ref, one_more)


# Everything works


async def test_a_board_on_three_servers_does_what_every_board_does(board: Blackboard):
    info = await board.log.connection.stream(STREAM)
    assert info is not None
    assert info.config["num_replicas"] == 3

    ref = await board.put("notes", "one")
    await board.revise(ref, "two", expected=ref.written)
    pinned = await board.get(ref.pinned())
    after_one = datetime.now(UTC)
    await board.update(ref, lambda memory: "three" if memory is None else f"{memory.content}+")
    large = await board.put("notes", "x" * 1_000_000)
    many = await board.put_many("many", [Memory(content=n) for n in range(50)])
    made = await board.once("double", 21, lambda: 42)
    reused = await board.once("double", 21, lambda: 43, topic="reused")

    assert (pinned.content, (await board.get(ref)).content) == ("one", "two+")
    assert (await board.get(ref, at=after_one)).content == "two"
    assert len((await board.get(large)).content) == 1_000_000
    assert [(await board.get(one)).content for one in many] == list(range(50))
    assert (made.content, reused.content, reused.kind) == (42, 42, "reuse")
    async with board.view("many") as view:
        assert {ref.unpinned for ref in view} == {ref.unpinned for ref in many}
    assert [memory.content for memory in await everything(board, "many")] == list(range(50))


async def test_handlers_and_groups_work_on_three_servers(board: Blackboard):
    agent = Agent("maker")

    @agent.on("in", to="out")
    async def double(item: Memory, _: Blackboard) -> Memory:
        return Memory(content=item.content * 2)

    @agent.gather("out", by="session", until=lambda parts: len(parts) == 20, to="sum", own=True)
    async def total(parts: list[Memory], _: Blackboard) -> int:
        return sum(part.content for part in parts)

    async with agent.running(board):
        for number in range(20):
            await board.put("in", number, session="s")
        result = await board.wait("sum", timeout=15)

    assert result.content == 2 * sum(range(20))
    assert sorted(one.content for one in await everything(board, "out")) == list(range(0, 40, 2))


# Reads


async def test_no_read_is_older_than_what_its_connection_wrote_or_saw(
    cluster: Cluster, board: Blackboard
):
    stale: list[tuple[str, int]] = []

    async def write_and_read(board: Blackboard) -> None:
        for number in range(ROUNDS):
            ref = await board.put("private", number)
            if (await board.get(ref)).content != number:
                stale.append(("private", number))
            await board.put("shared", number, key=board.agent)
            # By another agent's name, and without the revision: only the connection knows it.
            memory = await board.sibling(agent="other").get(f"*/shared/{board.agent}")
            if memory.content != number:
                stale.append(("shared", number))

    assert board.log.reads.replicated
    async with at_each(cluster) as boards, anyio.create_task_group() as group:
        for follower in boards[1:]:
            group.start_soon(write_and_read, follower)

    assert stale == []


async def test_what_one_connection_was_acknowledged_no_other_finds_missing_or_gone(
    cluster: Cluster, board: Blackboard
):
    wrong: list[tuple[int, str]] = []
    async with at_each(cluster) as boards, anyio.create_task_group() as group:
        for _ in range(4):  # under load the replicas lag more
            group.start_soon(keep_busy, board)
        for number in range(ROUNDS // 5):
            ref = await board.put("notes", number)
            for reader in boards:
                try:
                    await reader.get(str(ref))
                except NotFoundError as error:
                    wrong.append((number, str(error)))
            await board.retire(ref)
            await board.undo(ref)
            for reader in boards:
                try:
                    await reader.get(str(ref))
                except GoneError as error:
                    wrong.append((number, str(error)))
            await board.retire(ref)
            with pytest.raises(GoneError):
                await board.get(ref)
        with pytest.raises(NotFoundError):
            await boards[1].get(Ref("alice", "notes", "0" * 32))
        group.cancel_scope.cancel()

    assert wrong == []


async def test_views_and_replays_hold_what_was_acknowledged_before(
    cluster: Cluster, board: Blackboard
):
    missing: list[tuple[str, int]] = []
    async with at_each(cluster) as boards:
        for number in range(30):
            ref = await board.put("notes", number)
            for reader in boards:
                async with reader.view("notes") as view:
                    if ref.unpinned not in view:
                        missing.append(("view", number))
                if (await everything(reader, "notes"))[-1].content != number:
                    missing.append(("replay", number))

    assert missing == []


@pytest.mark.faults
@pytest.mark.timeout(120)
async def test_views_are_complete_while_a_server_catches_up(cluster: Cluster, board: Blackboard):
    leader, returning = cluster.leader(STREAM), cluster.followers(STREAM)[0]
    incomplete: list[int] = []
    opened = 0
    returning.kill()
    async with Blackboard.open(leader.url, agent="m0") as writer:
        for _ in range(6):
            await writer.put_many("big", [Memory(content="x" * 1500) for _ in range(1000)])
        returning.start()
        for number in range(80):
            ref = await writer.put("notes", number)
            try:
                async with writer.view("notes") as view:
                    if ref.unpinned not in view:
                        incomplete.append(number)
            except UnavailableError:
                continue  # said to be unknown, so nobody takes it for complete
            opened += 1

    assert incomplete == []
    assert opened > 40


class InUse:
    """What two processes see while a board is altered; each talks to a server of its own."""

    def __init__(self) -> None:
        self.wrong: list[str] = []
        self.lagged = 0
        self.acknowledged: dict[str, int] = {}

    async def work(self, board: Blackboard) -> None:
        number = 0
        other = board.sibling(agent="other")
        while True:
            number += 1
            ref = await board.put("private", number)
            self.acknowledged[str(ref)] = number
            # What a reader is up against: the same question without our care.
            direct = await board.log.connection.last(STREAM, reference_filter("main", ref))
            self.lagged += direct is None
            shared = await board.put("shared", number, key=board.agent)
            try:
                await board.get(str(ref))
                if (await other.get(str(shared))).content != number:
                    self.wrong.append(f"old: {shared}")
            except NotFoundError as error:
                self.wrong.append(str(error))
            if number % 50 == 0:
                large = await board.put("large", "x" * 300_000)
                try:
                    await other.get(large)
                except GoneError as error:
                    self.wrong.append(str(error))


async def alter(board: Blackboard, replicas: int) -> None:
    """Give a board so many replicas; it then has them."""
    connection = board.log.connection
    limits = msgspec.structs.replace(await limits_of(connection, "main"), replicas=replicas)
    changes = await alteration.apply(connection, "main", limits)
    assert {change.state for change in changes} == {"done"}


@pytest.mark.faults
@pytest.mark.timeout(90)
async def test_a_board_in_use_gets_replicas_and_loses_them_and_nobody_notices(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(fresh, "LEARN_S", 0.5)
    monkeypatch.setattr(alteration, "NOTICED_S", 1.5)
    in_use, agent = InUse(), Agent("copier")

    @agent.on("private", to="copies")
    async def copy(item: Memory, _: Blackboard) -> Memory:
        return Memory(content=[item.agent, item.content])

    async with Blackboard.open(cluster.url, agent="alice") as board, at_each(cluster) as boards:
        assert not board.log.reads.replicated
        async with agent.running(board), anyio.create_task_group() as group:
            for user in boards[1:]:
                group.start_soon(in_use.work, user)
            await wait_until(lambda: len(in_use.acknowledged) > 20, "the board is in use")
            await alter(board, 3)
            await wait_until(lambda: in_use.lagged > 5, "replicas have lagged", timeout=30)
            assert all(user.log.reads.replicated for user in boards[1:])
            await alter(board, 1)
            before = len(in_use.acknowledged)
            more = lambda: len(in_use.acknowledged) > before + 20  # noqa: E731
            await wait_until(more, "the board is in use again")
            group.cancel_scope.cancel()

        stored = {str(one.ref): one.content for one in await everything(board, "private")}

        async def copied() -> bool:
            return len(await everything(board, "copies")) == len(stored)

        async with agent.running(board):
            # A delivery that was under way when the servers changed comes again after 10 s.
            await wait_until(copied, "every memory was copied once", timeout=30)

    assert in_use.wrong == []
    assert in_use.acknowledged.items() <= stored.items()


# Writes


async def test_increments_over_several_servers_are_exact(cluster: Cluster, board: Blackboard):
    ref = "*/state.counters/hits"
    async with at_each(cluster) as boards, anyio.create_task_group() as group:
        for counting in boards:
            group.start_soon(increment, counting, ref, 50)
        group.start_soon(increment, boards[0].sibling(agent="m9"), ref, 50)

    assert (await board.get(ref)).content == 200


async def test_writes_that_meet_on_their_way_to_the_replicas_are_conflicts(board: Blackboard):
    codes: set[int] = set()
    ref = await board.put("state.x", 0, key="x")
    subject = "mem.main.shared.alice.state.x.x"

    async def write(expected: int) -> None:
        headers = {"Bb-Agent": "alice", "Nats-Expected-Last-Subject-Sequence": str(expected)}
        answer = await board.log.connection.request(subject, b"{}", headers)
        codes.add(msgspec.json.decode(answer.data).get("error", {}).get("err_code", 0))

    async def overtaken() -> bool:
        newest = await board.log.reads.last(reference_filter("main", ref))
        assert newest is not None
        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(write, newest.sequence)
        return 10164 in codes

    await wait_until(overtaken, "the broker has answered with code 10164")
    assert codes <= {0, 10071, 10164}

    outcomes: list[str] = []
    before = await board.put("state.y", 0, key="y")

    async def revise(number: int) -> None:
        try:
            await board.revise(before, number, expected=before.written)
        except ConflictError:
            outcomes.append("conflict")
        else:
            outcomes.append("stored")

    async with anyio.create_task_group() as group:
        for number in range(20):
            group.start_soon(revise, number)

    assert sorted(outcomes) == ["conflict"] * 19 + ["stored"]


# Leaders come and go


class History:
    """What was acknowledged, and how long the longest write took."""

    def __init__(self) -> None:
        self.acknowledged: list[int] = []
        self.longest_s = 0.0


async def keep_putting(board: Blackboard, topic: str, history: History) -> None:
    number = 0
    began = anyio.current_time()
    while True:
        try:
            await board.put(topic, number, key=f"n{number}", expected=0)
        except ConflictError:
            pass  # stored by an earlier try, of which nobody could say what became of it
        except RetryableError:
            continue
        history.acknowledged.append(number)
        history.longest_s = max(history.longest_s, anyio.current_time() - began)
        number += 1
        await anyio.sleep(0.02)
        began = anyio.current_time()


async def keep_watching(board: Blackboard, topic: str, seen: list[Any]) -> None:
    async with board.watch(topic, since="start") as memories:
        async for memory in memories:
            seen.append(memory.content)  # noqa: PERF401 - as they come


async def keep_viewing(board: Blackboard, topic: str, seen: dict[Ref, Any]) -> None:
    async with board.view(topic) as view:
        while True:
            seen.update({ref: memory.content for ref, memory in view.items()})
            await view.changed()


async def check_life_goes_on(board: Blackboard, writers: list[Blackboard], act: Any) -> float:
    """Write, watch, view and handle while `act` happens; returns the longest write in seconds."""
    agent = Agent("copier")

    @agent.on("w.*", to="copies")
    async def copy(item: Memory, _: Blackboard) -> Memory:
        return Memory(content=[item.topic, item.content])

    histories = [History() for _ in writers]
    watched: list[list[Any]] = [[] for _ in writers]
    viewed: list[dict[Ref, Any]] = [{} for _ in writers]
    async with agent.running(board), anyio.create_task_group() as group:
        for number, writer in enumerate(writers):
            topic = f"w.t{number}"
            group.start_soon(keep_watching, writer, topic, watched[number])
            group.start_soon(keep_viewing, writer, topic, viewed[number])
            group.start_soon(keep_putting, writer, topic, histories[number])
        await wait_until(lambda: all(len(one) > 20 for one in watched), "all are at work")
        await act()
        counts = [len(one.acknowledged) for one in histories]

        def went_on() -> bool:
            enough = [before + 20 for before in counts]
            return all(
                len(history.acknowledged) >= least and len(seen) >= least and len(view) >= least
                for history, seen, view, least in zip(
                    histories, watched, viewed, enough, strict=True
                )
            )

        await wait_until(went_on, "writers, watchers and views have gone on", timeout=30)

        async def copied() -> bool:
            copies = await everything(board, "copies")
            return len(copies) >= sum(counts) + 20 * len(counts)

        await wait_until(copied, "the handler has gone on", timeout=30)
        group.cancel_scope.cancel()
    for number, history in enumerate(histories):
        stored = [one.content for one in await everything(board, f"w.t{number}")]
        assert set(history.acknowledged) <= set(stored)
        assert stored == list(range(len(stored)))
        assert watched[number] == stored[: len(watched[number])]
        assert set(viewed[number].values()) <= set(stored)
    copies = [tuple(one.content) for one in await everything(board, "copies")]
    assert len(copies) == len(set(copies))
    return max(history.longest_s for history in histories)


async def test_a_new_leader_in_good_order_disturbs_nobody(cluster: Cluster, board: Blackboard):
    async def act() -> None:
        before = cluster.leader(STREAM)
        await step_down(board.log.connection, STREAM)
        await wait_until(
            lambda: cluster.leader(STREAM) is not before, "another server leads", timeout=15
        )

    async with at_each(cluster) as writers:
        longest_s = await check_life_goes_on(board, writers, act)

    assert longest_s < FAILOVER_S


@pytest.mark.faults
@pytest.mark.timeout(120)
async def test_after_a_leaders_death_writes_go_on_and_nothing_acknowledged_is_lost(
    cluster: Cluster, board: Blackboard
):
    async with AsyncExitStack() as stack:
        # Whoever talks to the leader knows the others as well.
        leader, *others = cluster.leader(STREAM), *cluster.followers(STREAM)
        urls = [f"{member.url},{others[0].url}" for member in (leader, others[1])]
        writers = [
            await stack.enter_async_context(Blackboard.open(url, agent=f"m{number}"))
            for number, url in enumerate(urls)
        ]

        async def act() -> None:
            cluster.leader(STREAM).kill()

        longest_s = await check_life_goes_on(board, writers, act)
        cluster.start()

    assert longest_s < FAILOVER_S
