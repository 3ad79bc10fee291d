from collections.abc import Callable
from pathlib import Path

import pytest

from blackboard import Blackboard
from tests.commands import (
    CommandLine,
    finished,
)
from tests.servers import Server


def test_the_doctor_finds_a_new_board_healthy(cli: CommandLine):
    cli.ok("put", "there", "is a board")

    checks = {check["name"]: check for check in cli.json("doctor")}
    plain = cli.ok("doctor").out

    assert {name for name, check in checks.items() if check["state"] == "ok"} == {
        *("client", "broker", "distance", "clock", "store"),
        *("streams", "mirrors", "handlers", "dead letters"),
    }
    assert checks["identity"]["state"] == "warn"
    assert "names are taken on trust" in checks["identity"]["found"]
    assert checks["durability"]["state"] == "unknown"
    assert "\nwarn    identity: names are taken on trust" in plain


def test_the_doctor_finds_what_was_changed_behind_the_boards_back(cli: CommandLine, server: Server):
    cli.ok("put", "there", "is a board")
    with Blackboard.sync(server.url) as board:
        connection = board.board.session.connection

        async def spoil() -> None:
            info = await connection.stream("MEM_main")
            assert info is not None
            changed = {**info.config, "deny_purge": False, "allow_rollup_hdrs": True}
            await connection.delete_stream("MEM_main")
            await connection.api("STREAM.CREATE.MEM_main", changed)
            await connection.delete_stream("DEAD_main")
            mirror = {"name": "copy", "mirror": {"name": "MEM_main"}}
            await connection.api("STREAM.CREATE.copy", mirror)

        board.run(spoil)

    done = cli("doctor")

    assert done.code == 1
    assert "fail    streams: not there: DEAD_main" in done.out
    assert "MEM_main allows rollup, with which any writer can wipe it" in done.out
    assert "fail    mirrors: copy mirrors the board" in done.out


def test_a_broker_that_restarted_is_healthy(cli: CommandLine, server: Server):
    cli.ok("put", "there", "is a board")
    server.stop()
    server.start()

    assert "ok      streams" in cli.ok("doctor").out
    assert "no agent runs on this board now" in cli.ok("agents").out


def test_the_doctor_says_what_nobody_works_on(cli: CommandLine, server: Server, agent_file: Path):
    cli.ok("put", "words", "early")
    run = cli.start("run", agent_file, "--start", "start")
    assert cli.ok("watch", "shouts", "--since", "start", "--limit", "1").out
    run.terminate()
    finished(run)
    cli.ok("put", "words", "late")

    checks = [check for check in cli.json("doctor") if check["name"] == "handlers"]

    assert server.running
    assert checks[0]["found"] == "shouter--shout is pulled by nobody; 1 memories wait for it"
    assert "blackboard agents remove shouter shout" in checks[0]["do"]


def test_the_doctor_says_when_there_is_no_board(cli: CommandLine):
    cli.ok("put", "there", "is a board")

    done = cli("doctor", "--board", "mian")

    assert done.code == 1
    assert "fail    board: no board 'mian' on this broker; there is: main" in done.out


def test_the_doctor_sees_rights_and_tells_no_secret(
    start_server: Callable[..., Server], capsys: pytest.CaptureFixture[str]
):
    rights = 'permissions: { publish: ">", subscribe: ">" }'
    users = f"authorization {{ users: [ {{ user: ann, password: hush-hush, {rights} }} ] }}"
    server = start_server(extra=users, userinfo="ann:hush-hush")
    cli = CommandLine(capsys, server.url)
    cli.ok("put", "there", "is a board")

    done = cli.ok("doctor")

    assert "ok      identity: this client is 'ann'; the broker limits what it may do" in done.out
    assert "hush-hush" not in done.out + done.err
