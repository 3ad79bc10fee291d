import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from blackboard import Blackboard, alteration
from blackboard.journal import CAPACITY
from blackboard.settings import Limits
from blackboard.telemetry import AUDIT_DROPPED, GET_MEMORY, SPANS_DROPPED
from tests.clusters import Cluster
from tests.commands import (
    CommandLine,
    finished,
)
from tests.servers import Server
from tests.waiting import wait_until


def test_the_doctor_finds_a_new_board_healthy(cli: CommandLine):
    cli.ok("put", "there", "is a board")

    checks = {check["name"]: check for check in cli.json("doctor")}
    plain = cli.ok("doctor").out

    assert {name for name, check in checks.items() if check["state"] == "ok"} == {
        *("client", "broker", "distance", "clock", "store"),
        *("streams", "mirrors", "handlers", "dead letters", "records", "retention"),
    }
    assert checks["identity"]["state"] == "warn"
    assert "names are taken on trust" in checks["identity"]["found"]
    for name in ("durability", "disk"):
        assert checks[name]["state"] == "unknown"
        assert "--monitor http://HOST:8222" in checks[name]["do"]
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
    rollup = "MEM_main has allow_rollup_hdrs=True instead of False, with which any writer can wipe"
    assert rollup in done.out
    assert "MEM_main has deny_purge=False instead of True, so whoever may purge it" in done.out
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


def test_the_doctor_sees_that_a_running_agent_has_given_up_a_handler(
    cli: CommandLine, server: Server, agent_file: Path
):
    cli.ok("put", "words", "early")
    run = cli.start("run", agent_file, "--start", "start")
    assert cli.ok("watch", "shouts", "--since", "start", "--limit", "1").out
    run.terminate()
    finished(run)
    agent_file.write_text(agent_file.read_text().replace("async def shout(", "async def cry("))
    run = cli.start("run", agent_file, "--start", "start")
    assert cli.ok("watch", "shouts", "--since", "start", "--limit", "2").out

    found = [check["found"] for check in cli.json("doctor") if check["name"] == "handlers"]
    run.terminate()
    finished(run)

    assert server.running
    text = "shouter--shout is pulled by nobody: shouter runs, but has no such handler; 0 memories"
    assert found == [f"{text} wait for it"]


def test_the_doctor_says_when_there_is_no_board(cli: CommandLine):
    cli.ok("put", "there", "is a board")

    done = cli("doctor", "--board", "mian")

    assert done.code == 1
    assert "fail    board: no board 'mian' on this broker; there is: main" in done.out
    # What concerns the broker is told all the same.
    assert "ok      broker: nats-server 2." in done.out
    assert "warn    identity: names are taken on trust" in done.out


def test_the_doctor_says_what_the_monitoring_tells(
    start_server: Callable[..., Server], capsys: pytest.CaptureFixture[str]
):
    careful = start_server(name="careful", max_file_store=6 << 30)
    lazy = start_server(name="lazy", sync='"2m"')
    cli = CommandLine(capsys, careful.url)
    cli.ok("put", "there", "is a board")

    good = cli.ok("doctor", "--monitor", careful.monitor).out
    both = cli("doctor", "--monitor", f"{careful.monitor}, {lazy.monitor},http://127.0.0.1:9")

    assert "ok      durability: every write is on disk before it is acknowledged" in good
    assert "warn    disk: careful has promised 4.94 GiB to streams, of 6.00 GiB" in good
    assert "raise its max_file_store" in good
    assert both.code == 1
    assert "fail    durability: lazy: the disk is synced every 120 s; a power cut loses" in both.out
    assert "set sync_interval: always" in both.out
    assert "ok      disk: lazy has promised 0.0 MiB" in both.out
    assert "warn    monitoring: 1 of 3 monitoring addresses do not answer" in both.out


def test_the_doctor_finds_a_broker_that_cannot_carry_a_board(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    server = Server(tmp_path / "plain", jetstream=False)
    server.start()
    try:
        done = CommandLine(capsys, server.url)("doctor")
    finally:
        server.kill()
    gone = CommandLine(capsys, server.url)("doctor")

    assert (done.code, gone.code) == (1, 1)
    assert "ok      broker: nats-server 2." in done.out
    assert "fail    jetstream: the broker serves no JetStream\n" in done.out
    assert "→ give its configuration a jetstream block" in done.out
    assert f"fail    broker: no broker answers at {server.url}" in gone.out
    assert "→ start one with `blackboard up`, or set BLACKBOARD_URL" in gone.out


def test_the_doctor_sees_an_account_and_a_board_run_out_of_room(
    start_server: Callable[..., Server], capsys: pytest.CaptureFixture[str]
):
    accounts = """
    accounts { team {
      jetstream { max_mem: 1G, max_file: 5500MB, max_consumers: 4 }
      users: [ { user: ann, password: secret } ]
    } }
    """
    server = start_server(extra=accounts, userinfo="ann:secret")
    cli = CommandLine(capsys, server.url)

    async def fill() -> None:
        for number in range(4):
            config = {"name": f"c{number}", "durable_name": f"c{number}", "ack_policy": "explicit"}
            body = {"stream_name": "MEM_main", "config": config}
            await connection.api(f"CONSUMER.CREATE.MEM_main.c{number}", body)

    refused = cli("put", "there", "is a board")
    without_board = cli("doctor").out
    with Blackboard.sync(server.url, limits=Limits(consumers=4)) as board:
        connection = board.board.session.connection
        board.run(fill)

    found = cli("doctor").out

    assert "warn    store: 0.0 MiB used, 4.94 GiB promised to streams, of the 5.37 GiB of" in found
    assert "→ raise the account's max_storage" in found
    assert "warn    consumers: " in found
    assert "consumers that this account may have" in found
    assert refused.code == 1
    assert "this account may have 4 consumers, and boards are made for 100000" in without_board
    assert "warn    consumers: MEM_main has 4 of 4 consumers" in found
    assert "blackboard apply --consumers" in found


@pytest.mark.faults
@pytest.mark.timeout(90)
def test_the_doctor_sees_a_server_that_is_down_and_a_stream_left_behind(
    cluster: Cluster, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(alteration, "NOTICED_S", 0.1)
    cli = CommandLine(capsys, cluster.url)
    cli.ok("put", "there", "is a board")
    cli.ok("apply", "--replicas", 3)
    with Blackboard.sync(cluster.url) as board:
        connection = board.board.session.connection
        info = board.run(lambda: connection.stream("BLOB_main"))
        assert info is not None
        one = {**info.config, "num_replicas": 1}
        board.run(lambda: connection.api("STREAM.UPDATE.BLOB_main", one))

    left = cli("doctor").out
    one_address = CommandLine(capsys, cluster.members[0].url)("doctor").out
    cli.ok("apply")
    whole = cli.ok("doctor").out
    down = cluster.followers("MEM_main")[0]
    down.kill()
    names = {number: name for name, number in zip(cluster.names, cluster.members, strict=True)}

    def seen() -> bool:
        found = cli("doctor").out
        return f"warn    replicas: {names[down]} is down; when one more goes" in found

    deadline = time.monotonic() + 60
    while not seen():
        assert time.monotonic() < deadline, cli("doctor").out

    assert "BLOB_main has num_replicas=1 instead of 3" in left
    assert "warn    addresses: this client knows one server only" in one_address
    assert "ok      durability: 3 copies on different servers" in whole
    assert "ok      replicas: all in step, led by member-" in whole
    assert "ok      addresses: this client knows 3 servers" in whole


def test_what_was_lost_under_overload_is_shown(cli: CommandLine, server: Server):
    with Blackboard.sync(server.url, agent="alice") as face:
        board = face.board
        ref = face.put("there", "is a board")

        async def overload() -> None:
            server.stop()
            for _ in range(CAPACITY + 7):  # more than may wait for the broker
                board.journal.audit("get", str(ref))
                with board.telemetry.span(GET_MEMORY):
                    pass
            server.start()

        face.run(overload)
        face.run(lambda: wait_until(board.journal.flush, "what waited is written"))
        wanted = dict(board.journal.counters)

    shown = cli.json("stats")["lost"]
    events, spans = shown["audit_events"], shown["spans"]
    assert (events, spans) == (wanted[AUDIT_DROPPED.name], wanted[SPANS_DROPPED.name])
    assert min(events, spans) >= 7
    assert re.search(f"^lost +{events} audit events, {spans} spans$", cli.ok("stats").out, re.M)
    found = cli.ok("doctor").out
    assert f"warn    records: {events} audit events and {spans} spans were lost lately" in found
    assert "BLACKBOARD_TRACE_RATIO" in found
    assert cli.ok("audit").err == f"{events} more events were lost in this time\n"


@pytest.mark.parametrize("open_to_all", [True, False])
def test_the_doctor_sees_rights_and_tells_no_secret(
    start_server: Callable[..., Server], capsys: pytest.CaptureFixture[str], *, open_to_all: bool
):
    own = '["mem.*.*.cli.>", "spans.*.cli", "audit.*.cli", "$JS.API.>", "$SYS.REQ.USER.INFO"]'
    rights = f"permissions: {{ publish: {chr(34) + '>' + chr(34) if open_to_all else own} }}"
    users = f"authorization {{ users: [ {{ user: ann, password: hush-hush, {rights} }} ] }}"
    server = start_server(extra=users, userinfo="ann:hush-hush")
    cli = CommandLine(capsys, server.url)
    cli.ok("put", "there", "is a board")

    done = cli.ok("doctor")

    if open_to_all:
        # Permissions alone are no identity.
        assert "warn    identity: names are taken on trust: this client, 'ann', may" in done.out
    else:
        assert (
            "ok      identity: this client is 'ann', and the broker lets it write as no" in done.out
        )
    assert "hush-hush" not in done.out + done.err
