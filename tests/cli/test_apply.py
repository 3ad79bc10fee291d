from typing import Any

import pytest

from blackboard import Blackboard
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
    assert "not supported in non-clustered mode" in again["MEM_main", "num_replicas"]["why"]


def test_apply_gives_a_board_replicas_that_outlive_its_only_server(
    cluster: Cluster, capsys: pytest.CaptureFixture[str]
):
    cli = CommandLine(capsys, cluster.url)
    refs = [cli.ok("put", "notes", f"note {number}").out.strip() for number in range(3)]
    only = cluster.leader("MEM_main")

    planned = changes_of(cli, "--replicas", 3, "--dry-run")
    done = changes_of(cli, "--replicas", 3)
    again = changes_of(cli, "--replicas", 3)
    only.stop()
    found = [cli.ok("get", ref).out for ref in refs]

    assert {what for what, one in planned.items() if one["state"] == "planned"} == done.keys()
    assert {one["state"] for one in done.values()} == {"done"}
    assert len([setting for _, setting in done if setting == "num_replicas"]) == 7
    assert again == {}
    assert [f"note {number}" in text for number, text in enumerate(found)] == [True] * 3


def test_apply_needs_a_board(cli: CommandLine):
    cli.ok("put", "there", "is a board")

    done = cli("apply", "--board", "mian")

    assert (done.code, "no board 'mian' on this broker; there is: main" in done.err) == (1, True)
