import signal
import subprocess
import sys

import anyio

from blackboard import Blackboard
from blackboard.background import background
from blackboard.errors import UnavailableError
from blackboard.service import keep_boards
from tests.servers import Server
from tests.waiting import wait_until


async def test_boards_are_kept_while_they_are_there(board: Blackboard, server: Server) -> None:
    kept: list[str] = []
    ended: list[str] = []

    async def keep(name: str) -> None:
        kept.append(name)
        try:
            if kept.count(name) == 1:
                raise UnavailableError("not yet")
            await anyio.sleep_forever()
        finally:
            ended.append(name)

    connection = board.session.connection
    async with background() as group:
        group.start_soon(keep_boards, connection, keep)
        await wait_until(lambda: kept == ["main", "main"], "it is kept again after an error")
        async with Blackboard.open(server.url, board="other", agent="alice"):
            await wait_until(lambda: kept.count("other") == 2, "the new one is kept")
        await connection.delete_stream("MEM_other")
        async with Blackboard.open(server.url, board="third", agent="alice"):
            await wait_until(lambda: ended.count("other") == 2, "the deleted one is not")
        assert ended.count("main") == 1
        group.cancel_scope.cancel()

    assert ended.count("main") == 2


def test_a_service_without_a_broker_to_serve_says_what_to_set() -> None:
    for service in ("steward", "recall"):
        command = [sys.executable, "-m", f"blackboard.{service}"]
        done = subprocess.run(command, env={}, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert f"set BLACKBOARD_URL to the broker that {service} shall serve" in done.stderr


def test_a_service_that_waits_for_its_broker_ends_when_asked() -> None:
    command = [sys.executable, "-m", "blackboard.steward"]
    environment = {"BLACKBOARD_URL": "nats://127.0.0.1:1"}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as waiting:
        assert waiting.stderr is not None
        said = waiting.stderr.readline()
        waiting.send_signal(signal.SIGTERM)
        said += waiting.stderr.read()

    assert "WARNING" in said
    assert "asked to stop by SIGTERM" in said
    assert waiting.returncode == 0
