from typing import Any

import pytest

from blackboard import Blackboard, alteration
from tests.clusters import Cluster
from tests.commands import CommandLine
from tests.servers import Server

Changes = dict[tuple[str, str], Any]


def changes_of(cli: CommandLine, *arguments: object) -> Changes:
    done = cli("apply", *arguments, "--json")
    found: Changes = {(one["stream"], one["setting"]): one for one in done.json}
    assert done.code == any(one["state"] == "refused" for one in found.values())
    return found


def settings(url: str, stream: str) -> dict[str, Any]:
    with Blackboard.sync(url) as board:
        connection = board.board.session.connection
        info = board.run(lambda: connection.stream(stream))
    assert info is not None
    return info.config


def test_apply_changes_what_is_named_and_nothing_else(cli: CommandLine, server: Server):
    ref = cli.ok("put", "there", "is a board").out.strip()
    before = settings(server.url, "MEM_main")

    planned = changes_of(cli, "--memory-bytes", "3GiB", "--history", 80, "--dry-run")
    untouched = settings(server.url, "MEM_main")
    done = changes_of(cli, "--memory-bytes", "3GiB", "--history", 80, "--consumers", 50_000)
    after = settings(server.url, "MEM_main")

    assert {one["state"] for one in planned.values()} == {"planned"}
    assert untouched == before
    assert {one["state"] for one in done.values()} == {"done"}
    assert done["MEM_main", "max_msgs_per_subject"]["before"] == 64
    assert after == {
        **before,
        "max_bytes": 3 << 30,
        "max_msgs_per_subject": 80,
        "max_consumers": 50_000,
    }
    assert settings(server.url, "BLOB_main")["max_consumers"] == 50_000
    assert cli.ok("apply").out == "everything is as it should be\n"
    assert "is a board" in cli.ok("get", ref).out


def test_apply_refuses_what_would_lose_something_and_does_the_rest(
    cli: CommandLine, server: Server
):
    for number in range(5):
        cli.ok("put", "state.counter", number, "--key", "n")

    done = changes_of(
        cli, "--history", 4, "--memory-bytes", "500B", "--blob-bytes", "1GiB", "--consumers", 10
    )
    kept = cli.ok("replay", "state.counter", "--json").out

    refused = {what: one["why"] for what, one in done.items() if one["state"] == "refused"}
    # The projection follows a moment later, and is refused as well once it holds the key.
    refused.pop(("KV_state_main", "max_bytes"), None)
    assert refused.keys() == {("MEM_main", "max_msgs_per_subject"), ("MEM_main", "max_bytes")}
    assert (
        "has 5 revisions, and the oldest would be lost"
        in refused["MEM_main", "max_msgs_per_subject"]
    )
    assert "bytes are stored there; allow at least as many" in refused["MEM_main", "max_bytes"]
    assert done["BLOB_main", "max_bytes"]["state"] == "done"
    assert ("KV_state_main", "max_bytes") not in done  # it follows the board, which is as it was
    assert settings(server.url, "MEM_main")["max_bytes"] == 2 << 30
    assert settings(server.url, "BLOB_main")["max_bytes"] == 1 << 30
    assert len(kept.splitlines()) == 5
    fewer = changes_of(cli, "--history", 5)
    assert fewer["MEM_main", "max_msgs_per_subject"]["state"] == "done"
    assert len(cli.ok("replay", "state.counter", "--json").out.splitlines()) == 5


def test_apply_sets_right_what_was_changed_and_names_what_it_cannot(
    cli: CommandLine, server: Server
):
    cli.ok("put", "there", "is a board")

    async def spoil() -> None:
        dead = await connection.stream("DEAD_main")
        assert dead is not None
        await connection.delete_stream("DEAD_main")
        await connection.delete_stream("SPANS_main")
        changed = {**dead.config, "storage": "memory", "deny_purge": False, "max_age": 3600 * 10**9}
        await connection.api("STREAM.CREATE.DEAD_main", changed)

    with Blackboard.sync(server.url) as board:
        connection = board.board.session.connection
        board.run(spoil)

    done = cli("apply")
    again = changes_of(cli, "--replicas", 3)

    assert done.code == 1
    rows = [line.split()[:2] for line in done.out.splitlines()[1:]]
    assert sorted(rows) == [
        ["DEAD_main", "deny_purge"],
        ["DEAD_main", "storage"],
        ["SPANS_main", "stream"],
    ]
    assert "the broker fixes it when a stream is made; delete DEAD_main" in done.out
    assert settings(server.url, "DEAD_main")["deny_purge"]
    assert settings(server.url, "DEAD_main")["max_age"] == 3600 * 10**9
    assert again["MEM_main", "num_replicas"]["state"] == "refused"
    assert "this is a single server" in again["MEM_main", "num_replicas"]["why"]


def test_apply_ends_what_would_drop_or_refuse_memories(cli: CommandLine, server: Server):
    ref = cli.ok("put", "there", "is a board").out.strip()
    wrong = {"max_age": 3600 * 10**9, "max_msgs": 10, "max_msg_size": 1000, "no_ack": True}

    async def spoil() -> None:
        info = await connection.stream("MEM_main")
        assert info is not None
        unlimited = {"max_bytes": -1, "max_msgs_per_subject": -1, "max_consumers": -1}
        changed = {**info.config, **wrong, **unlimited, "discard": "old", "deny_delete": True}
        changed["subjects"] = [*info.config["subjects"], "else.>"]
        await connection.api("STREAM.UPDATE.MEM_main", changed)

    with Blackboard.sync(server.url) as board:
        connection = board.board.session.connection
        board.run(spoil)

    sick = cli("doctor")
    done = changes_of(cli)
    after = settings(server.url, "MEM_main")

    assert all(f"MEM_main has {setting}=" in sick.out for setting in wrong)
    assert "max_age=3600000000000 instead of 0, so memories vanish" in sick.out
    assert {setting for _, setting in done} == {
        *(*wrong, "discard", "max_bytes", "max_msgs_per_subject", "max_consumers"),
        *("deny_delete", "subjects"),
    }
    assert {setting for (_, setting), one in done.items() if one["state"] == "refused"} == {
        "deny_delete"
    }
    assert (after["max_age"], after["max_msgs"], after["discard"]) == (0, -1, "new")
    assert (after["max_bytes"], after["max_msgs_per_subject"]) == (2 << 30, 64)
    assert "is a board" in cli.ok("get", ref).out


def test_what_an_apply_left_that_was_killed_is_told_and_taken_back(
    cli: CommandLine, server: Server
):
    ref = cli.ok("put", "there", "is a board").out.strip()

    async def announce() -> None:
        info = await connection.stream("MEM_main")
        assert info is not None
        metadata = {**info.config["metadata"], alteration.ANNOUNCED: "yes"}
        await connection.api("STREAM.UPDATE.MEM_main", {**info.config, "metadata": metadata})

    with Blackboard.sync(server.url) as board:
        connection = board.board.session.connection
        board.run(announce)

    told = cli.ok("doctor").out
    read = cli.ok("get", ref).out
    cli.ok("apply")

    assert "warn    replicas: replicas are announced but not there" in told
    assert "is a board" in read
    assert "replicas" not in cli.ok("doctor").out
    assert alteration.ANNOUNCED not in settings(server.url, "MEM_main")["metadata"]


def test_the_doctor_has_nothing_against_limits_that_apply_set(cli: CommandLine):
    cli.ok("put", "there", "is a board")
    cli.ok("apply", "--history", 80, "--consumers", 5000, "--memory-bytes", "3GiB")

    assert "ok      streams" in cli.ok("doctor").out


@pytest.mark.parametrize("replicas", [0, 2, 4])
def test_apply_takes_no_number_of_replicas_that_is_of_no_use(cli: CommandLine, replicas: int):
    cli.ok("put", "there", "is a board")

    done = cli("apply", "--replicas", replicas)

    assert (done.code, "replicas must be" in done.err) == (2, True)


def test_apply_gives_a_board_replicas_that_outlive_its_only_server(
    cluster: Cluster, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(alteration, "NOTICED_S", 0.1)  # nobody else reads here
    # The first address is dead, as it is after a server was taken away for good.
    cli = CommandLine(capsys, f"nats://127.0.0.1:9,{cluster.url}")
    refs = [cli.ok("put", "notes", f"note {number}").out.strip() for number in range(3)]
    only = cluster.leader("MEM_main")

    planned = changes_of(cli, "--replicas", 3, "--dry-run")
    done = changes_of(cli, "--replicas", 3)
    again = changes_of(cli, "--replicas", 3)
    too_many = changes_of(cli, "--replicas", 5)
    only.stop()
    found = [cli.ok("get", ref).out for ref in refs]
    only.start()
    cluster.wait_ready()
    back = changes_of(cli, "--replicas", 1)
    alone = settings(cluster.url, "MEM_main")
    kept = [cli.ok("get", ref).out for ref in refs]

    assert {what for what, one in planned.items() if one["state"] == "planned"} == done.keys()
    assert {one["state"] for one in done.values()} == {"done"}
    assert len([setting for _, setting in done if setting == "num_replicas"]) == 7
    assert again == {}
    assert {one["state"] for one in too_many.values()} == {"refused"}
    assert "too few servers have room" in too_many["MEM_main", "num_replicas"]["why"]
    assert [f"note {number}" in text for number, text in enumerate(found)] == [True] * 3
    assert {one["state"] for one in back.values()} == {"done"}
    assert (alone["num_replicas"], alteration.ANNOUNCED in alone["metadata"]) == (1, False)
    assert kept == found


def test_apply_needs_a_board(cli: CommandLine):
    cli.ok("put", "there", "is a board")

    done = cli("apply", "--board", "mian")

    assert (done.code, "no board 'mian' on this broker; there is: main" in done.err) == (1, True)
