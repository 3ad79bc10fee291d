import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio.to_thread
import pytest

from blackboard.cli import COMMANDS, build, main
from blackboard.errors import InvalidError
from blackboard.times import parse_duration, parse_since, parse_time
from tests.commands import (
    LIMIT_S,
    ROOT,
    CommandLine,
    Done,
    finished,
    start,
)
from tests.servers import Server
from tests.stack_users import pids

NAMES = [
    *("up", "demo", "put", "get", "watch", "replay", "agents", "topics", "stats"),
    *("run", "dead", "audit", "trace", "explain", "doctor", "apply"),
    *("recall", "query", "reindex", "access", "consolidate", "retention"),
    *("forget", "export", "import", "report", "backup", "restore"),
]
SUBCOMMANDS = [
    "access add",
    "access apply",
    "access can",
    "access check",
    "access publish",
    "access revoke",
    "access rotate",
    "agents list",
    "agents pause",
    "agents resume",
    "agents remove",
    "backup list",
    "backup receipts",
    "backup verify",
    "consolidate undo",
    "dead list",
    "dead retry",
    "demo support",
    "forget list",
    "forget verify",
    "retention apply",
    "retention check",
    "retention show",
]
NO_ID = "alice/reports/0123456789abcdef0123456789abcdef"


def test_the_commands_are_those_that_are_promised():
    assert sorted(name for group in COMMANDS.values() for name in group) == sorted(NAMES)


@pytest.mark.parametrize("command", [*NAMES, *SUBCOMMANDS])
def test_help_shows_an_example_and_says_what_every_option_is_for(
    command: str, anywhere: CommandLine
):
    words = command.split()
    app = build(words)
    for word in words:
        app = app[word]
    undocumented = [
        argument.name
        for argument in app.assemble_argument_collection(parse_docstring=True)
        if argument.show and not argument.parameter.help and argument.name != "--json"
    ]

    shown = anywhere.ok(*words, "--help").out

    assert not undocumented
    assert f"    blackboard {command}" in shown
    assert "--json" in shown


@pytest.mark.parametrize("command", NAMES)
def test_the_overview_says_what_the_commands_own_help_says(command: str, anywhere: CommandLine):
    summary = next(group[command].summary for group in COMMANDS.values() if command in group)

    assert summary in " ".join(anywhere.ok(command, "--help").out.split())
    assert summary in " ".join(anywhere.ok("--help").out.split())


def test_help_loads_no_command_and_no_vendor_of_an_extra():
    program = (
        "import sys; from blackboard.cli import main; main(['--help']); "
        "print([m for m in sys.modules if m in ('nats', 'openai', 'onnxruntime', 'qdrant_client') "
        "or m.startswith('blackboard.cli.')], file=sys.stderr)"
    )

    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )

    assert done.stderr.strip() == "[]"


def test_ctrl_c_while_it_loads_ends_it_without_a_traceback():
    program = (
        "import os, signal, sys\n"
        "class CtrlC:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'cyclopts': os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, CtrlC())\n"
        "from blackboard.__main__ import main; main()"
    )

    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )

    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


# Mistakes


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("gett", NO_ID), "unknown command 'gett'; did you mean 'get'?"),
        (("get",), "parameter REFERENCE requires an argument; see `blackboard get --help`"),
        (("get", "reports.q3"), "is no reference; write <agent>/<topic>/<id> or */<topic>/<key>"),
        (("get", NO_ID, "--at", "yesterday"), "--at 'yesterday' is no time; write 20"),
        (("get", NO_ID, "--at", "2026-11-20T09:30"), "has no time zone; append Z"),
        (("put", "a..b", "x"), "topic 'a..b': the token '' must be"),
        (("put", "once.x", "x"), "'once' is kept for the library"),
        (("put", "a", "x", "--ttl", "soon"), "--ttl 'soon' is no duration; write one like 30s"),
        (("put", "a", "x", "--ttl", "0s"), "must be at least 1 s"),
        (("put", "a", "x", "--tag", "red"), "write --tag NAME=VALUE"),
        (("put", "a", "x", "--key", "a/b"), "key 'a/b' must be"),
        (("put", "a", "x", "--priority", "7"), "must be from 0 to 1"),
        (("put", "a", "x", "--expected", "now"), 'unable to convert "now" into int'),
        (("put", "a", "x", "--expected", "3"), "expected= belongs to key="),
        (("put", "a", "x", "--source", "b"), "'b' is no reference"),
        (("put", "a", "x", "--agent", "Alice"), "agent 'Alice' must be"),
        (("put", "a", "--speling", "x"), "unexpected argument 'x' (quote what has spaces"),
        (("put", "a", "--speling"), "unknown option '--speling'"),
        (("put", "a", "x", "--speling", "y"), "Unknown option: --speling"),
        (("put", "a", "--key"), "--key"),
        (("watch", "a.>.b"), "'>' may only be the whole last token"),
        (("watch", "a", "--since", "then"), "--since 'then' is neither a time"),
        (("watch", "a", "--since", "0"), "revisions are counted from 1"),
        (("watch", "a", "--limit", "0"), "--limit 0 must be at least 1"),
        (("replay", "a", "--speed", "0"), "must be above 0"),
        (("topics", "a b"), "pattern 'a b'"),
        (("audit", "--agent", "A"), "--agent 'A' must be"),
        (("trace", "abc"), "'abc' is no trace; give its 32 hex digits"),
        (("agents", "lst"), "see `blackboard agents --help`"),
        (("dead", "retry"), "say which letters to retry: their numbers, or --all"),
        (("run", "agent.py", "--replicas", "0"), "--replicas 0 must be at least 1"),
        (
            ("apply", "--memory-bytes", "lots"),
            "--memory-bytes 'lots' is no size; write one like 8GiB",
        ),
        (("apply", "--history", "0"), "history must be at least 1"),
        (("run", "agent.py"), "there is no agent file 'agent.py'"),
    ],
)
def test_a_wrong_command_line_is_told_in_one_line(
    cli: CommandLine, arguments: tuple[str, ...], said: str
):
    cli.ok("put", "there", "is a board")

    done = cli(*arguments)

    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert said in done.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("get", NO_ID), f"no memory '{NO_ID}' on board 'main'"),
        (("explain", NO_ID), f"no memory '{NO_ID}' on board 'main'"),
        (("trace", "0" * 31 + "1"), "no span of trace 0"),
        (("agents", "pause", "nobody"), "no agent 'nobody'"),
        (("dead", "retry", "7"), "no dead letter 7"),
        (("put", "a", "x", "--source", NO_ID), f"the source '{NO_ID}' does not exist"),
        (("topics", "--board", "mian"), "no board 'mian' on this broker; there is: main"),
    ],
)
def test_what_is_not_there_is_told_in_one_line(
    cli: CommandLine, arguments: tuple[str, ...], said: str
):
    cli.ok("put", "there", "is a board")

    done = cli(*arguments)

    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert said in done.err


def test_reading_makes_neither_a_board_nor_a_directory(cli: CommandLine, anywhere: CommandLine):
    assert cli("watch", "a", "--board", "new").code == 1
    assert "there is: none" in cli("watch", "a", "--board", "new").err

    assert cli("put", "a", "x", "--tag", "red", "--board", "new").code == 2
    assert "there is: none" in cli("topics", "--board", "new").err

    nowhere = anywhere("get", NO_ID)

    assert nowhere.code == 2
    assert "no local stack in '.blackboard'; start one with `blackboard up`" in nowhere.err
    assert not Path(".blackboard").exists()


def test_a_broker_that_is_gone_is_told_in_one_line(cli: CommandLine, server: Server):
    cli.ok("put", "there", "is a board")
    server.kill()
    begun = time.monotonic()

    done = cli("get", NO_ID)

    assert done.code == 1
    assert f"no broker answers at {server.url}" in done.err
    assert done.err.count("\n") == 1
    assert time.monotonic() - begun < 10


def test_a_wrong_token_is_told_in_one_line(
    start_server: Callable[..., Server],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
):
    server = start_server(extra="authorization { token: right }")
    cli = CommandLine(capsys, server.url)
    token = tmp_path / "token"
    monkeypatch.setenv("BLACKBOARD_TOKEN_FILE", str(token))

    unreadable = cli("topics")
    token.write_text("wrong\n")
    # A process of its own, because the client library leaves the refused socket open.
    refused = finished(cli.start("topics", environment={"BLACKBOARD_TOKEN_FILE": str(token)}))
    token.write_text("right\n")
    accepted = cli("put", "a", "x")

    assert (unreadable.code, refused.code, accepted.code) == (2, 2, 0)
    assert "cannot read the token file" in unreadable.err
    assert "refused the token; set BLACKBOARD_TOKEN_FILE" in refused.err
    assert "wrong" not in refused.err


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("def broken(:\n", "shouter.py:1: "),
        ("import nothing_of_that_name\n", "ModuleNotFoundError"),
        ("agent = None\n", "must define exactly one Agent"),
        ("from blackboard import Agent\na = Agent('a')\nb = Agent('b')\n", "it has a, b"),
    ],
)
def test_an_agent_file_that_cannot_run_is_told_in_one_line(
    cli: CommandLine, agent_file: Path, program: str, said: str
):
    agent_file.write_text(program)

    done = cli("run", agent_file)

    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert "Traceback" not in done.err


def test_two_places_at_once_are_refused(anywhere: CommandLine):
    done = anywhere("topics", "--url", "nats://127.0.0.1:1", "--data", "x")

    assert (done.code, "give one of them" in done.err) == (2, True)


# The local stack


async def test_up_holds_a_stack_that_others_use(data_dir: Path):
    first = start("up", "--data", data_dir, "--port", 0, "--json")
    processes = [first]
    try:
        assert first.stdout is not None
        facts = json.loads(first.stdout.readline())
        second = start("up", "--data", data_dir)
        processes.append(second)
        assert second.stdout is not None
        joined = second.stdout.readline()
        put = finished(start("put", "notes", "hello", "--data", data_dir))
        by_url = {
            "BLACKBOARD_URL": facts["url"],
            "BLACKBOARD_TOKEN_FILE": facts["token_file"],
        }
        got = finished(start("get", put.out.strip(), environment=by_url))
        second.send_signal(signal.SIGINT)
        said = joined + second.stdout.read()
        second.communicate(timeout=LIMIT_S)
        first.terminate()
        ended = finished(first)
    finally:
        for process in processes:
            process.kill()
            process.wait()

    token = (data_dir / "token").read_text().strip()
    assert (facts["started"], facts["board"], facts["data"]) == (True, "main", str(data_dir))
    assert said.startswith("joined the running local stack\n")
    assert "Names are taken on trust" in said
    assert f"  export BLACKBOARD_DATA='{data_dir}'\n" in said
    assert f" BLACKBOARD_TOKEN_FILE='{data_dir / 'token'}'\n" in said
    assert token not in said + json.dumps(facts)
    assert got.out.endswith("\n\nhello\n")
    assert (processes[1].returncode, ended) == (0, Done(0, "", ""))


async def test_up_starts_a_stack_again_that_was_killed(data_dir: Path):
    holding = start("up", "--data", data_dir, "--port", 0, "--json")
    try:
        assert holding.stdout is not None
        facts = json.loads(holding.stdout.readline())
        os.kill(pids(data_dir)["supervisor"], signal.SIGKILL)
        again = json.loads(holding.stdout.readline())
        holding.terminate()
        code = holding.wait(LIMIT_S)
    finally:
        holding.kill()
        holding.communicate()

    assert (facts["started"], again["started"], code) == (True, True, 0)


def test_up_says_what_it_cannot_use(anywhere: CommandLine, tmp_path: Path):
    (tmp_path / "file").write_text("")

    no_port = finished(start("up", "--port", 99999, "--data", tmp_path / "data"))
    no_directory = finished(start("up", "--data", tmp_path / "file"))
    no_place = anywhere("up", "--url", "nats://127.0.0.1:4222")

    assert (no_port.code, no_directory.code, no_place.code) == (2, 2, 2)
    assert no_port.err == "error: port 99999 is not a number from 0 to 65535\n"
    assert "as data directory" in no_directory.err
    assert "`up` runs a broker of its own" in no_place.err


async def test_a_stack_is_there_as_long_as_a_command_needs_it(
    data_dir: Path, anywhere: CommandLine
):
    def use() -> tuple[Done, Done]:
        ref = anywhere.ok("put", "notes", "hello", "--data", data_dir).out.strip()
        return anywhere.ok("get", ref, "--data", data_dir), anywhere("doctor", "--data", data_dir)

    got, looked = await anyio.to_thread.run_sync(use)

    assert got.out.endswith("\n\nhello\n")
    assert looked.code == 0
    assert "ok      durability: every write is on disk before it is acknowledged" in looked.out


# Times


def test_durations_are_read_as_people_write_them():
    assert parse_duration("90s", "x") == timedelta(seconds=90)
    assert parse_duration("1h30m", "x") == timedelta(hours=1, minutes=30)
    assert parse_duration("1.5d", "x") == timedelta(hours=36)
    assert parse_duration("2w", "x") == timedelta(days=14)


@pytest.mark.parametrize("text", ["", "10", "m", "-3m", "10 m", "3y", "9" * 400 + "d"])
def test_what_is_no_duration_is_refused(text: str):
    with pytest.raises(InvalidError):
        parse_duration(text, "--ttl")


def test_times_are_absolute_or_ago():
    assert parse_time("2026-11-20T09:30:00Z", "x") == datetime(2026, 11, 20, 9, 30, tzinfo=UTC)
    assert parse_time("2026-11-20T11:30:00+02:00", "x") == datetime(2026, 11, 20, 9, 30, tzinfo=UTC)
    then = parse_time("2h", "x")
    assert timedelta(hours=2) <= datetime.now(UTC) - then < timedelta(hours=2, minutes=1)
    assert (parse_since("start"), parse_since("42")) == ("start", 42)


@pytest.mark.parametrize("text", ["900000d", "2026-11-20", "2026-13-01T00:00Z", "1e5"])
def test_what_is_no_time_is_refused(text: str):
    with pytest.raises(InvalidError):
        parse_time(text, "--at")


def test_main_takes_the_arguments_of_the_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys, "argv", ["blackboard", "--version"])

    assert main() == 0
    assert capsys.readouterr().out
