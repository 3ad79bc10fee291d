"""`blackboard retention`, and what doctor, stats and up make of a policy."""

import json
import signal
import subprocess
from datetime import timedelta
from functools import partial
from pathlib import Path

import anyio.to_thread
import pytest

from blackboard import Blackboard
from blackboard.cli.policies import enrol_local
from blackboard.errors import DeniedError
from blackboard.local import join
from blackboard.local.directory import Directory
from blackboard.local.security import write_policy
from blackboard.retention import read_retention
from tests.commands import CommandLine, Done, finished, start
from tests.forgetting import Steward
from tests.retained import later, retaining
from tests.servers import Server
from tests.waiting import wait_until

POLICY = """\
personal = ["pii"]

[[retain]]
labels = ["pii"]
max_age = "30d"

[[retain]]
topics = ["chat.>"]
max_age = "36h"
max_per_session = 2
before = "summarise"

[[retain]]
topics = ["handbook"]
keep = true
"""
ACCESS = """\
[roles.writer]
read  = [{ topics = [">"], labels = ["pii"] }]
write = [{ topics = [">"], labels = ["pii"] }]

[boards.main.agents.alice]
roles = ["writer"]
"""


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "retention.toml"
    path.write_text(POLICY)
    return path


def test_a_policy_is_checked_applied_and_shown(cli: CommandLine, policy: Path):
    cli.ok("put", "there", "is a board")
    assert "no policy: everything stays" in cli.ok("retention", "show").out

    checked = cli.ok("retention", "check", policy).out.splitlines()
    planned = cli.ok("retention", "apply", policy, "--dry-run").out
    assert "no policy" in cli.ok("retention", "show").out
    first = cli.ok("retention", "apply", policy).out
    again = cli.json("retention", "apply", policy)

    assert [line.split() for line in checked[:4]] == [
        ["retention", "age", "a", "session", "before"],
        [">", "(pii)", "30d", "remove"],
        ["chat.>", "36h", "2", "summarise"],
        ["handbook", "keep"],
    ]
    assert checked[-2:] == ["personal   pii", "otherwise  memories stay"]
    assert "would be in force" in planned
    assert "in force within seconds" in first
    assert again["changed"] is False
    assert cli.ok("retention", "show").out.splitlines() == checked
    assert cli.json("retention", "show")["policy"]["rules"][1] == {
        "topics": ["chat.>"],
        "max_age_s": 129600.0,
        "max_per_session": 2,
        "before": "summarise",
    }


def test_a_policy_survives_other_settings_and_a_restart(
    cli: CommandLine, server: Server, policy: Path
):
    cli.ok("put", "there", "is a board")
    cli.ok("retention", "apply", policy)
    before = cli.json("retention", "show")

    cli.ok("apply", "--history", "100")
    server.kill()
    server.start()

    assert cli.json("retention", "show") == before
    assert cli.json("get", cli.ok("put", "x", "1", "--access", "pii").out.strip())["expires"]


def test_what_cannot_be_meant_is_an_error_with_its_line_and_changes_nothing(
    cli: CommandLine, policy: Path
):
    cli.ok("put", "there", "is a board")
    policy.write_text(POLICY.replace('"36h"', '"36 hours"'))

    for verb in ("check", "apply"):
        refused = cli("retention", verb, policy)
        assert refused.code == 2
        assert f"{policy}:9: max_age '36 hours' is no duration" in refused.err
    policy.write_text('[[retain]]\ntopics = ["chat.>"]\nmax_age = "3d"\n')
    refused = cli("retention", "apply", policy)
    assert refused.code == 2
    assert "no rule gives an age to everything under the personal label 'pii'" in refused.err
    assert cli.json("retention", "show")["policy"] is None


def test_the_doctor_insists_on_an_age_for_what_is_personal(cli: CommandLine, policy: Path):
    def found() -> tuple[int, dict[str, str]]:
        done = cli("doctor", "--json")
        return done.code, next(one for one in done.json if one["name"] == "retention")

    cli.ok("put", "there", "is a board")
    code, check = found()
    assert (code, check["state"]) == (0, "ok")
    assert "no policy: everything stays, and nothing lies under pii" in check["found"]

    cli.ok("put", "people", "Ann", "--access", "pii")
    code, check = found()
    assert (code, check["state"]) == (1, "fail")
    assert "no rule gives an age to what lies under the personal label 'pii'" in check["found"]
    assert "blackboard retention apply FILE" in check["do"]

    cli.ok("retention", "apply", policy)
    assert found() == (0, {**check, "state": "ok", "found": found()[1]["found"], "do": ""})
    assert found()[1]["found"] == "3 rules; personal labels (pii) have an age"


def test_the_doctor_tells_of_a_policy_that_cannot_be_read(cli: CommandLine, server: Server):
    cli.ok("put", "there", "is a board")
    with Blackboard.sync(server.url) as board:
        connection = board.board.session.connection

        async def spoil() -> None:
            info = await connection.stream("MEM_main")
            assert info is not None
            metadata = {**info.config.get("metadata", {}), "blackboard-retention": "{"}
            await connection.api("STREAM.UPDATE.MEM_main", {**info.config, "metadata": metadata})

        board.run(spoil)

    assert cli.json("get", cli.ok("put", "x", "1").out.strip())["content"] == 1
    done = cli("doctor")
    assert done.code == 1
    assert "fail    retention: the policy on this board cannot be read" in done.out


def test_stats_show_what_each_rule_holds_and_has_removed(
    cli: CommandLine, server: Server, policy: Path
):
    policy.write_text(POLICY.replace('before = "summarise"\n', ""))

    async def fill(board: Blackboard) -> None:
        await board.put_many("chat.a", list(range(5)), session="s1")
        await board.put("chat.a", "kept", session="s1", priority=0.95)
        await board.put("handbook", "stays")
        await board.put_many("notes", [1, 2, 3])
        await board.put("people", "Ann", access="pii")

    async def look(board: Blackboard) -> None:
        await board.sibling(agent="late").put("chat.a", "ends by itself")
        for hours in (1, 37):
            await retaining(board, later(hours=hours)).look(read_retention(policy))

    with Blackboard.sync(server.url) as board:
        board.run(partial(fill, board.board))
        cli.ok("retention", "apply", policy)
        before = cli.json("stats")["retention"]
        board.run(partial(look, board.board))
        after = cli.json("stats")["retention"]

    assert [(one["memories"], one["over"], one["removed"]) for one in before["rules"]] == [
        (1, 0, 0),
        (6, 3, 0),
        (1, 0, 0),
    ]
    assert before["rules"][1]["shielded"] == 1
    assert before["unlimited"] == after["unlimited"] == 3
    chat = after["rules"][1]
    assert (chat["memories"], chat["over"], chat["removed"], chat["ended"]) == (2, 0, 5, 1)
    text = cli.ok("stats").out
    assert "3 memories under no rule: they stay" in text
    assert ["chat.>", "36h", "2", "remove", "2", "0", "1", "5"] in [
        line.split() for line in text.splitlines()
    ]


async def _finished(process: "subprocess.Popen[str]") -> Done:
    return await anyio.to_thread.run_sync(finished, process)


async def test_up_puts_a_policy_on_its_board(data_dir: Path, policy: Path):
    broken = policy.with_name("broken.toml")
    broken.write_text("[[retain]]\n")
    refused = await _finished(start("up", "--data", data_dir, "--retention", broken))
    assert refused.code == 2
    assert f"{broken}:1: the rule for > limits nothing" in refused.err

    up = start("up", "--data", data_dir, "--port", 0, "--json", "--retention", policy)
    assert up.stdout is not None
    said = await anyio.to_thread.run_sync(up.stdout.readline)
    shown = await _finished(start("retention", "show", "--data", data_dir, "--json"))
    up.send_signal(signal.SIGINT)
    assert json.loads(said)["board"] == "main"
    assert (await _finished(up)).code == 0
    assert shown.json["policy"]["personal"] == ["pii"]
    assert len(shown.json["policy"]["rules"]) == 3


async def test_a_steward_puts_the_policy_that_its_environment_names_on_every_board(
    server: Server, tmp_path: Path, policy: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("BLACKBOARD_RETENTION", str(policy))
    steward = Steward(server.url, tmp_path / "steward.log")
    steward.start()
    try:
        async with Blackboard.open(server.url, board="new", agent="alice") as board:

            async def ends() -> bool:
                ref = await board.put("people", "Ann", access="pii")
                return (await board.get(ref)).expires is not None

            await wait_until(ends, "the policy is on the new board", 20)
    finally:
        steward.stop()


@pytest.mark.timeout(120)
async def test_agents_with_limited_rights_keep_to_a_policy_and_cannot_change_it(
    data_dir: Path, policy: Path
):
    async def run(*arguments: object, credential: Path | None = None) -> Done:
        environment = {"BLACKBOARD_CREDENTIALS": str(credential)} if credential else {}
        return await _finished(start("retention", *arguments, environment=environment))

    directory = Directory.at(data_dir)
    directory.prepare()
    write_policy(directory, ACCESS)
    async with join(data_dir, port=0) as endpoint:
        await enrol_local(endpoint)
        async with Blackboard.local(data_dir=data_dir, agent="cli"):
            pass  # makes the board
        applied = await run("apply", policy, "--data", data_dir)
        assert applied.code == 0, applied.err
        async with Blackboard.local(data_dir=data_dir, agent="alice") as alice:
            memory = await alice.get(await alice.put("people", "Ann", access="pii"))
            assert memory.stored is not None
            assert memory.expires is not None
            assert abs(memory.expires - memory.stored - timedelta(days=30)) < timedelta(seconds=2)
            stream = await alice.session.connection.stream("MEM_main")
            assert stream is not None
            with pytest.raises(DeniedError):
                await alice.session.connection.api("STREAM.UPDATE.MEM_main", stream.config)
        assert endpoint.credentials is not None
        own = endpoint.credentials / "main" / "alice.nk"
        refused = await run("apply", policy, "--url", endpoint.url, credential=own)
        shown = await run("show", "--url", endpoint.url, credential=own)

    assert refused.code == 1
    assert "agent 'alice' may not change the retention policy" in refused.err
    assert "30d" in shown.out, shown.err
