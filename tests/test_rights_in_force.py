"""Rights that change, and a steward that is away, while agents read, watch and handle."""

import signal
from collections.abc import AsyncGenerator
from pathlib import Path

import anyio
import pytest

from blackboard import Agent, Blackboard, Memory
from blackboard.access.rights import Grant, Rights
from blackboard.errors import DeniedError, UnavailableError
from blackboard.jetstream import ConsumerInfo, Durable
from tests.guarded import Guarded, agent
from tests.scene import guarded
from tests.waiting import wait_until

OPEN, SECRET, PRIVATE = (
    Grant("shared", "docs.open.>"),
    Grant("shared", "docs.secret.>"),
    Grant("pii", "docs.open.>"),
)
EVERYTHING = (OPEN, SECRET, PRIVATE)
WRITER = agent("writer", read=EVERYTHING, write=EVERYTHING)


def reader(*grants: Grant, handlers: tuple[str, ...] = ("collect",)) -> Rights:
    return agent("reader", read=grants, write=[Grant("shared", "seen.>")], handlers=handlers)


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncGenerator[Guarded]:
    async with guarded(tmp_path / "guarded", [WRITER, reader(*EVERYTHING)]) as broker:
        yield broker


@pytest.fixture
async def writer(broker: Guarded) -> AsyncGenerator[Blackboard]:
    async with broker.board("writer") as board:
        yield board


async def consumer(broker: Guarded, name: str) -> ConsumerInfo | None:
    async with broker.operator() as operator:
        return await Durable(operator, "MEM_main", name).info()


async def filters_of(broker: Guarded, name: str) -> int:
    info = await consumer(broker, name)
    if info is None:
        return 0
    return len(info.config.get("filter_subjects") or [info.config.get("filter_subject")])


async def test_a_watch_goes_on_within_the_rights_that_are_left(
    broker: Guarded, writer: Blackboard
) -> None:
    seen: list[object] = []

    async def watch() -> None:
        async with broker.board("reader") as board, board.watch("docs.>") as memories:
            seen.append("watching")
            async for memory in memories:
                seen.append(memory.content)  # noqa: PERF401 - it never ends

    async with anyio.create_task_group() as group:
        group.start_soon(watch)
        await wait_until(lambda: seen, "it watches")
        await writer.put("docs.secret.a", "secret 1")
        await writer.put("docs.open.a", "open 1")
        await wait_until(lambda: seen[1:] == ["secret 1", "open 1"], "both are seen")

        await broker.grant(reader(OPEN))
        await writer.put("docs.secret.a", "secret 2")
        await writer.put("docs.open.a", "open 2")
        await wait_until(lambda: seen[3:] == ["open 2"], "only what may be read is seen", 20)

        await broker.grant(reader(*EVERYTHING))
        await writer.put("docs.secret.a", "secret 3")
        await wait_until(lambda: seen[4:] == ["secret 3"], "what may be read again is seen", 20)
        group.cancel_scope.cancel()


async def test_a_watch_that_has_no_rights_left_ends_and_says_so(
    broker: Guarded, writer: Blackboard
) -> None:
    async with broker.board("reader") as board, board.watch("docs.>") as memories:
        await writer.put("docs.open.a", 1)
        assert (await anext(aiter(memories))).content == 1
        await broker.grant(agent("reader", write=[Grant("shared", "seen.>")]))
        with pytest.raises(DeniedError, match="docs"), anyio.fail_after(30):
            await anext(aiter(memories))


async def test_a_write_or_read_without_a_right_that_there_was_is_denied_at_once(
    broker: Guarded, writer: Blackboard
) -> None:
    secret = await writer.put("docs.secret.a", "x")
    async with broker.board("reader") as board:
        assert (await board.get(secret)).content == "x"
        assert await board.put("seen.a", 1)
        await broker.grant(agent("reader", read=[OPEN]))
        began = anyio.current_time()
        with pytest.raises(DeniedError, match=r"docs\.secret"):
            await board.get(secret)
        with pytest.raises(DeniedError, match=r"seen\.a"):
            await board.put("seen.a", 2)
        assert anyio.current_time() - began < 2


async def test_a_handler_gets_what_it_may_read_as_rights_come_and_go(
    broker: Guarded, writer: Blackboard
) -> None:
    seen: list[object] = []
    collector = Agent("reader", version="1")

    @collector.on("docs.>", name="collect")
    async def collect(memory: Memory, _: Blackboard) -> None:
        seen.append(memory.content)

    async with broker.board("reader") as board, collector.running(board):
        await writer.put("docs.secret.a", 1)
        await wait_until(lambda: seen == [1], "handled")
        await broker.grant(reader(PRIVATE))
        await wait_until(lambda: _has(broker, 1), "the consumer is cut")
        await writer.put("docs.secret.a", 2)
        await writer.put("docs.open.a", 3, access="pii")
        await wait_until(lambda: seen == [1, 3], "handled")
        await broker.grant(reader(*EVERYTHING))
        await wait_until(lambda: _has(broker, 3), "the consumer is as it was")
        await writer.put("docs.secret.a", 4)
        await wait_until(lambda: seen == [1, 3, 4], "handled")
        # Another replica, with the same settings, finds its consumer.
        async with broker.board("reader") as twin, collector.running(twin):
            await writer.put("docs.open.a", 5)
            await wait_until(lambda: seen == [1, 3, 4, 5], "handled")

    await broker.grant(reader(*EVERYTHING, handlers=()))
    await wait_until(lambda: _has(broker, 0), "a handler that is not named any more ends")


async def test_consumers_from_before_a_board_had_credentials_are_held_to_the_rights(
    broker: Guarded,
) -> None:
    async with broker.operator() as operator:
        body = {"ack_policy": "explicit", "max_deliver": -1}
        for name, more in (
            ("reader--collect", {"durable_name": "reader--collect"}),
            ("stranger--x", {"durable_name": "stranger--x"}),
            ("old", {"deliver_subject": "_INBOX.main.reader.old", "ack_policy": "none"}),
            ("others", {"deliver_subject": "_INBOX.cli.x", "ack_policy": "none"}),
        ):
            config = {**body, **more, "name": name, "inactive_threshold": 60 * 10**9}
            await operator.api(
                f"CONSUMER.CREATE.MEM_main.{name}", {"stream_name": "MEM_main", "config": config}
            )
    await broker.grant(reader(OPEN))

    await wait_until(lambda: _has(broker, 2), "it may read what its agent may")
    await wait_until(lambda: _is_absent(broker, "stranger--x"), "nobody's consumer is gone")
    await wait_until(lambda: _has(broker, 2, "old"), "who reads with the old one is held to them")
    other = await consumer(broker, "others")
    assert other is not None
    assert "filter_subjects" not in other.config


async def test_without_a_steward_what_is_open_stays_so_and_nothing_else_opens(
    broker: Guarded, writer: Blackboard
) -> None:
    first = await writer.put("docs.open.a", "one")
    seen: list[object] = []
    async with broker.board("reader") as board, board.watch("docs.>", since="start") as memories:
        seen.append((await anext(aiter(memories))).content)
        broker.end_stewards()
        assert (await board.get(first)).content == "one"
        assert await writer.put("docs.open.a", "two")
        seen.append((await anext(aiter(memories))).content)
        began = anyio.current_time()
        with pytest.raises(UnavailableError, match="no steward"):
            await board.get(first, at=(await board.get(first)).stored)
        with pytest.raises(UnavailableError, match="no steward"):
            async with board.watch("docs.>"):
                pass
        assert anyio.current_time() - began < 10

        # The broker restarts meanwhile, and with it every watch: it goes on when there is one.
        broker.kill()
        broker.start()
        await wait_until(lambda: _stored(writer, "three"), "the writer is back", 20)
        broker.start_steward()
        with anyio.fail_after(30):
            seen.append((await anext(aiter(memories))).content)
        assert (await board.get(first, at=(await board.get(first)).stored)).content == "one"
    assert seen == ["one", "two", "three"]


async def test_rights_that_are_taken_while_no_steward_is_there_are_taken_at_once(
    broker: Guarded, writer: Blackboard
) -> None:
    async with broker.board("reader") as board, board.watch("docs.>") as memories:
        broker.end_stewards()
        await writer.put("docs.secret.a", 1)
        assert (await anext(aiter(memories))).content == 1
        await broker.grant(reader(OPEN))
        await writer.put("docs.secret.a", 2)
        await writer.put("docs.open.a", 3)
        assert (await anext(aiter(memories))).content == 3


async def test_two_stewards_share_the_work_and_one_may_die_in_the_middle(
    broker: Guarded, writer: Blackboard
) -> None:
    twin = broker.start_steward()
    await wait_until(
        lambda: broker.steward_log.read_text().count("its agents are served") == 2, "both serve", 20
    )
    refs = [await writer.put("docs.open.a", number) for number in range(20)]
    failures: list[Exception] = []

    async def look(board: Blackboard, number: int) -> None:
        try:
            assert (await board.get(refs[number].pinned())).content == number
            async with board.watch("docs.>", since="start") as memories:
                assert (await anext(aiter(memories))).content == 0
        except Exception as error:  # noqa: BLE001 - all of them are looked at
            failures.append(error)

    async with broker.board("reader") as board:
        async with anyio.create_task_group() as group:
            for number in range(20):
                group.start_soon(look, board, number)
                if number == 10:
                    await anyio.sleep(0.02)
                    twin.send_signal(signal.SIGKILL)
        # What the dead one had in hand was not answered: that is an error which says so.
        assert all(isinstance(error, UnavailableError) for error in failures), failures
        failures.clear()
        async with anyio.create_task_group() as group:
            for number in range(20):
                group.start_soon(look, board, number)
    assert failures == []


async def _is_absent(broker: Guarded, name: str) -> bool:
    return await consumer(broker, name) is None


async def _has(broker: Guarded, count: int, name: str = "reader--collect") -> bool:
    return await filters_of(broker, name) == count


async def _stored(writer: Blackboard, content: object) -> bool:
    try:
        await writer.put("docs.open.a", content)
    except UnavailableError:
        return False
    return True
