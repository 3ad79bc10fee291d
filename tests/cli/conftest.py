"""Fixtures of the command line's tests."""

import os
from pathlib import Path

import pytest

from tests.commands import CommandLine
from tests.servers import Server

AGENT = """
from blackboard import Agent
from blackboard.errors import TerminalError

agent = Agent("shouter")


@agent.on("words", to="shouts")
async def shout(word, board):
    if word.content == "bad":
        raise TerminalError("not that word")
    return word.content.upper()
"""


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings from outside, and an empty working directory."""
    for name in [name for name in os.environ if name.startswith("BLACKBOARD_")]:
        monkeypatch.delenv(name)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture
def cli(server: Server, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """Commands against a fresh broker."""
    return CommandLine(capsys, server.url)


@pytest.fixture
def anywhere(capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """Commands that say themselves where the board is."""
    return CommandLine(capsys, None)


@pytest.fixture
def agent_file(tmp_path: Path) -> Path:
    """A program with an agent that shouts words, and gives up on the word bad."""
    path = tmp_path / "shouter.py"
    path.write_text(AGENT)
    return path
