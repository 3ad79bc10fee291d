"""The command line in tests: called in this process, or as a process of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from blackboard.cli import main

ROOT = Path(__file__).resolve().parents[1]
LIMIT_S = 30


class Done(NamedTuple):
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its standard output as one JSON value."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        """Its standard output as JSON values, one a line."""
        return [json.loads(line) for line in self.out.splitlines()]


class CommandLine:
    """Commands against one broker.

    Args:
        capture: Of the test.
        url: The broker; None leaves it to the arguments.
    """

    def __init__(self, capture: pytest.CaptureFixture[str], url: str | None) -> None:
        self._capture = capture
        self._place = [] if url is None else ["--url", url]

    def __call__(self, *arguments: object) -> Done:
        """Run a command in this process."""
        self._capture.readouterr()
        code = main([*map(str, arguments), *self._place])
        shown = self._capture.readouterr()
        return Done(code, shown.out, shown.err)

    def ok(self, *arguments: object) -> Done:
        """Run a command that shall succeed."""
        done = self(*arguments)
        assert done.code == 0, done
        return done

    def json(self, *arguments: object) -> Any:
        """Run a command that shall succeed, with --json."""
        return self.ok(*arguments, "--json").json

    def start(self, *arguments: object, **options: Any) -> "subprocess.Popen[str]":
        """Start a command as a process of its own."""
        return start(*arguments, *self._place, **options)


def start(
    *arguments: object, environment: Mapping[str, str] | None = None, **options: Any
) -> "subprocess.Popen[str]":
    """Start `python -m blackboard …` with pipes."""
    inherited = {name: value for name, value in os.environ.items() if "BLACKBOARD" not in name}
    settings: dict[str, Any] = {
        "stdin": subprocess.DEVNULL,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
        **options,
    }
    return subprocess.Popen(
        [sys.executable, "-m", "blackboard", *map(str, arguments)],
        env={**inherited, "PYTHONPATH": str(ROOT), **(environment or {})},
        **settings,
    )


def finished(process: "subprocess.Popen[str]", given: str | None = None) -> Done:
    """Wait for the end of a command."""
    try:
        out, err = process.communicate(given, timeout=LIMIT_S)
    finally:
        process.kill()
    return Done(process.returncode, out, err)
