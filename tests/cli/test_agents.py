import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.commands import (
    CommandLine,
    finished,
)


@pytest.fixture
def running(cli: CommandLine, agent_file: Path) -> Iterator["subprocess.Popen[str]"]:
    cli.ok("put", "words", "early")
    process = cli.start("run", agent_file, "--replicas", 2, "--start", "start", "--json")
    try:
        yield process
    finally:
        process.terminate()
        finished(process)


def test_an_agent_runs_is_listed_paused_resumed_and_removed(
    cli: CommandLine, running: "subprocess.Popen[str]"
):
    shouted = cli.ok("watch", "shouts", "--since", "start", "--limit", "1", "--json").json
    listed = _until(lambda: cli.json("agents"), lambda tree: len(tree["instances"]) == 2)
    plain = cli.ok("agents").out
    paused = cli.json("agents", "pause", "shouter")
    while_paused = cli.json("agents", "list", "--agent", "shouter")["handlers"]
    resumed = cli.ok("agents", "resume", "shouter", "shout").out
    running.terminate()
    ended = finished(running)
    removed = cli.json("agents", "remove", "shouter")

    assert shouted["content"] == "EARLY"
    assert [(one["agent"], one["handler"]) for one in listed["handlers"]] == [("shouter", "shout")]
    assert "shouter--shout  words" in plain
    assert paused == {"paused": ["shouter--shout"]}
    assert while_paused[0]["paused"]
    assert resumed == "resumed shouter--shout\n"
    assert ended.json == {**ended.json, "replicas": 2, "exit_code": 0}
    assert ended.code == 0
    assert removed == {"removed": ["shouter--shout"]}
    assert cli.json("agents")["handlers"] == []


def test_what_a_handler_gave_up_on_is_listed_and_tried_again(
    cli: CommandLine, running: "subprocess.Popen[str]"
):
    assert cli.ok("watch", "shouts", "--since", "start", "--limit", "1").out
    ref = cli.ok("put", "words", "bad").out.strip()

    letters = _until(lambda: cli.json("dead"), lambda found: len(found) == 1)
    plain = cli.ok("dead", "list").out
    why = cli.ok("dead", "list", "--agent", "shouter", "--why").out
    number = letters[0]["number"]
    retried = cli.ok("dead", "retry", number).out
    again = _until(lambda: cli.json("dead"), lambda found: len(found) == 1)

    assert running.poll() is None
    assert letters[0]["input"] == ref
    assert letters[0]["error"].startswith("TerminalError: not that word")
    assert plain.splitlines()[1].split()[0] == str(number)
    assert "Traceback" in why
    assert retried == f"{number}: {ref} goes to shouter--shout again\n"
    assert again[0]["number"] > number


def _until(ask: Callable[[], Any], enough: Callable[[Any], bool]) -> Any:
    deadline = time.monotonic() + 15
    while True:
        answer = ask()
        if enough(answer) or time.monotonic() > deadline:
            assert enough(answer), answer
            return answer
