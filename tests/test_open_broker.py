"""A broker that is gone, hangs, refuses or is full: a clear error in time, and then on again."""

import os
import signal
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import anyio
import psutil
import pytest

from blackboard import Blackboard, Memory, Ref
from blackboard.errors import (
    BlackboardError,
    BoardFullError,
    GoneError,
    NotFoundError,
    SettingsError,
    TerminalError,
    TooLargeError,
    UnavailableError,
)
from blackboard.jetstream import follower
from blackboard.layout import delete_board
from blackboard.settings import MIB, Limits
from tests.servers import Server
from tests.waiting import wait_until

READ_S = 5.0
WRITE_S = 10.0
BUSY_S = 1.5
"""Allowed on top of a time limit, for a busy machine."""
NOWHERE = "nats://127.0.0.1:9"


async def unavailable(call: Callable[[], Awaitable[object]]) -> float:
    """Seconds until the call says that there is no broker."""
    began = anyio.current_time()
    with pytest.raises(UnavailableError):
        await call()
    return anyio.current_time() - began


async def check_time_limits(board: Blackboard, ref: Ref) -> None:
    calls: list[tuple[float, Callable[[], Awaitable[object]]]] = [
        (READ_S, lambda: board.get(ref)),
        (READ_S, lambda: board.retire(ref)),
        (READ_S, lambda: board.update(ref, lambda _: 1)),
        (READ_S, lambda: board.once("work", 1, lambda: 1)),
        (WRITE_S, lambda: board.put("jobs", 2)),
        (WRITE_S, lambda: board.put_many("jobs", [2, 3])),
    ]
    async with anyio.create_task_group() as group:

        async def check(limit_s: float, call: Callable[[], Awaitable[object]]) -> None:
            assert await unavailable(call) < limit_s + BUSY_S

        for limit_s, call in calls:
            group.start_soon(check, limit_s, call)


async def test_a_broker_that_is_gone_or_hangs_is_unavailable_in_time_and_usable_when_it_is_back(
    start_server: Callable[..., Server],
):
    gone, hanging = start_server(), start_server()
    async with Blackboard.open(gone.url) as one, Blackboard.open(hanging.url) as two:
        refs = [await board.put("jobs", 1, key="a") for board in (one, two)]
        gone.kill()
        os.kill(hanging.pid, signal.SIGSTOP)
        # On a busy machine it goes on answering until the signal has its turn.
        stopped = psutil.Process(hanging.pid)
        await wait_until(lambda: stopped.status() == psutil.STATUS_STOPPED, "the broker hangs")
        async with anyio.create_task_group() as group:
            for board, ref in zip((one, two), refs, strict=True):
                group.start_soon(check_time_limits, board, ref)
        gone.start()
        os.kill(hanging.pid, signal.SIGCONT)

        for board, ref in zip((one, two), refs, strict=True):
            # Both wait for the connection by themselves; nobody has to open the board again.
            assert (await board.get(await board.put("jobs", 4))).content == 4
            assert (await board.get(ref)).content == 1


async def test_a_call_during_a_short_restart_only_takes_longer(server: Server):
    async with Blackboard.open(server.url) as board:
        ref = await board.put("jobs", 1, key="a")
        server.kill()
        results: list[object] = []
        async with anyio.create_task_group() as group:

            async def call(write: Callable[[], Awaitable[object]]) -> None:
                results.append(await write())

            group.start_soon(call, lambda: board.get(ref))
            group.start_soon(call, lambda: board.put("jobs", 2))
            group.start_soon(call, lambda: board.put_many("jobs", [3, 4]))
            group.start_soon(call, lambda: board.update(ref, lambda _: 5))
            await wait_until(lambda: not board.connection.is_connected, "the loss is noticed")
            server.start()

        assert len(results) == 4
        assert (await board.get(ref)).content == 5


async def test_nothing_waits_for_a_board_that_was_closed(server: Server):
    async with Blackboard.open(server.url) as board:
        ref = await board.put("jobs", 1, key="a")
    for call in (lambda: board.put("jobs", 2), lambda: board.get(ref)):
        assert await unavailable(call) < 1


async def test_an_address_without_a_broker_is_unavailable_and_says_what_to_do():
    async def open_it() -> None:
        async with Blackboard.open(NOWHERE):
            pass

    with pytest.raises(UnavailableError, match="blackboard up"), anyio.fail_after(5 + BUSY_S):
        await open_it()


@pytest.mark.parametrize("address", [",", "nats://", "nats://host:port"])
async def test_an_address_that_is_none_is_a_mistake_in_the_settings(address: str):
    with pytest.raises(SettingsError, match="address"):
        async with Blackboard.open(address):
            pass


@pytest.mark.parametrize("secret", ["wrong-secret", None])
async def test_a_wrong_token_is_a_mistake_in_the_settings_and_is_not_repeated(
    start_server: Callable[..., Server], secret: str | None
):
    server = start_server(extra='authorization { token: "right-secret" }', userinfo="right-secret")
    right = server.url
    wrong = right.replace("right-secret@", f"{secret}@" if secret else "")
    with pytest.raises(SettingsError, match="BLACKBOARD_TOKEN_FILE") as raised:
        async with Blackboard.open(wrong):
            pass
    assert "secret" not in str(raised.value)
    async with Blackboard.open(right) as board:
        assert "secret" not in board.url


async def test_the_token_comes_from_a_file(
    start_server: Callable[..., Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    server = start_server(extra='authorization { token: "right-secret" }', userinfo="right-secret")
    file = tmp_path / "token"
    file.write_text("right-secret\n")
    monkeypatch.setenv("BLACKBOARD_TOKEN_FILE", str(file))
    async with Blackboard.open(server.url.replace("right-secret@", "")) as board:
        assert (await board.get(await board.put("jobs", 1))).content == 1

    monkeypatch.setenv("BLACKBOARD_TOKEN_FILE", str(tmp_path / "none"))
    with pytest.raises(SettingsError, match="BLACKBOARD_TOKEN_FILE"):
        async with Blackboard.open(server.url):
            pass


async def fill(board: Blackboard, refs: list[Ref]) -> None:
    while True:
        refs.append(await board.put("jobs", "x" * 10_000))


async def test_a_full_board_refuses_memories_and_still_takes_reads_and_retirements(server: Server):
    async with Blackboard.open(server.url, limits=Limits(memory_bytes=2 * MIB)) as board:
        refs: list[Ref] = []
        with pytest.raises(BoardFullError, match="Retire"):
            await fill(board, refs)
        with pytest.raises(BoardFullError):
            await board.put_many("jobs", ["x" * 10_000] * 50)
        # Nothing was dropped for the new, and the most part of the room could be used.
        assert len(refs) > 150
        assert (await board.get(refs[0])).content == "x" * 10_000

        for ref in refs[:20]:
            await board.retire(ref)
        with pytest.raises(GoneError):
            await board.get(refs[0])
        with pytest.raises(BoardFullError):
            await board.put("jobs", "x" * 10_000)


async def test_a_full_board_still_runs_a_piece_of_work_once(server: Server):
    async with Blackboard.open(server.url, limits=Limits(memory_bytes=2 * MIB)) as board:
        with pytest.raises(BoardFullError):
            await fill(board, [])
        assert (await board.once("work", 1, lambda: "small")).content == "small"


async def test_many_writers_at_once_leave_the_reserve_of_a_full_board(
    server: Server,
):
    async with Blackboard.open(server.url, limits=Limits(memory_bytes=2 * MIB)) as board:
        first = await board.put("jobs", 1)

        async def write(agent: str) -> None:
            async with Blackboard.open(server.url, agent=agent) as writer:
                with pytest.raises(BoardFullError):
                    await fill(writer, [])

        async with anyio.create_task_group() as group:
            for number in range(4):
                group.start_soon(write, f"agent-{number}")
        await board.retire(first)


async def test_limits_above_the_brokers_store_are_refused(start_server: Callable[..., Server]):
    server = start_server(max_file_store=64 * MIB)
    with pytest.raises(BoardFullError, match="room"):
        async with Blackboard.open(server.url):
            pass


async def test_a_board_that_is_not_there_is_not_made_when_it_may_not_be(server: Server):
    with pytest.raises(NotFoundError, match="no board 'other'"):
        async with Blackboard.open(server.url, board="other", create=False):
            pass


async def test_a_board_deleted_under_its_readers_ends_them_with_an_error(
    server: Server, monkeypatch: pytest.MonkeyPatch
):
    # Nobody tells a reader: it notices that the heartbeats stop, which takes 12.5 s otherwise.
    monkeypatch.setattr(follower, "HEARTBEAT_S", 0.5)
    monkeypatch.setattr(follower, "SILENCE_S", 1.25)
    async with (
        Blackboard.open(server.url) as board,
        board.view("jobs") as view,
        board.watch("jobs") as memories,
    ):
        await board.put("jobs", 1)
        await view.changed()
        assert (await anext(memories)).content == 1
        await delete_board(board.session.connection, board.name)

        ended: list[BlackboardError] = []

        async def follow() -> None:
            with pytest.raises(TerminalError, match="deleted") as raised:
                await anext(memories)
            ended.append(raised.value)

        async with anyio.create_task_group() as group:
            group.start_soon(follow)
            with anyio.fail_after(20):
                await view.changed()
            with pytest.raises(TerminalError, match="deleted"):
                len(view)
        assert len(ended) == 1


async def test_a_board_that_was_deleted_is_made_again_by_the_next_write(server: Server):
    async with Blackboard.open(server.url) as board:
        ref = await board.put("jobs", 1)
        await delete_board(board.session.connection, board.name)
        with pytest.raises(NotFoundError):
            await board.get(ref)
        again = await board.put("jobs", 2, ttl=timedelta(hours=1))
        assert isinstance(await board.get(again), Memory)


async def test_large_content_outlasts_a_restart_of_the_broker(server: Server) -> None:
    async with Blackboard.open(server.url) as board:
        refs: list[Ref] = []
        server.kill()
        async with anyio.create_task_group() as group:

            async def put() -> None:
                refs.append(await board.put("jobs", "x" * 3_000_000))

            group.start_soon(put)
            await anyio.wait_all_tasks_blocked()
            server.start()
        memory = await board.get(refs[0])

        assert memory.content == "x" * 3_000_000


async def test_a_message_above_the_broker_s_limit_is_too_large(
    start_server: Callable[..., Server],
) -> None:
    small = start_server(extra="max_payload: 65536")
    async with Blackboard.open(small.url) as board:
        with pytest.raises(TooLargeError, match="max_payload"):
            await board.put("jobs", "x" * 100_000)
        await board.put("jobs", "x")
