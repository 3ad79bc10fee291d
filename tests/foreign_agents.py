"""Running the agents in `foreign/` as processes: commands in, answers and events out, as JSON."""

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import pytest
from anyio.streams.text import TextReceiveStream

FOREIGN = Path(__file__).parent / "foreign"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "blackboard-agents-tests"
NODE_AT_LEAST = 20
UNREACHABLE = ("EAI_AGAIN", "ECONNREFUSED", "ECONNRESET", "ENETUNREACH", "ENOTFOUND", "ETIMEDOUT")
ANSWER_S = 15.0
LANGUAGES = ("python", "javascript")


class Foreign:
    """A running foreign agent."""

    def __init__(self, process: anyio.abc.Process) -> None:
        self._process = process
        self._numbers = 0
        self._answers: dict[int, dict[str, Any]] = {}
        self._changed = anyio.Event()
        self.events: list[dict[str, Any]] = []

    async def do(self, what: str, **arguments: Any) -> dict[str, Any]:
        """Have it do something, and return its answer; an `error` in it fails the test."""
        answer = await self.attempt(what, **arguments)
        assert "error" not in answer, answer
        return answer

    async def attempt(self, what: str, **arguments: Any) -> dict[str, Any]:
        """The same, for what may fail."""
        self._numbers += 1
        number = self._numbers
        assert self._process.stdin is not None
        line = json.dumps({"number": number, "do": what, **arguments})
        await self._process.stdin.send(f"{line}\n".encode())
        with anyio.fail_after(ANSWER_S):
            while number not in self._answers:
                await self._changed.wait()
        return self._answers.pop(number)

    async def event(self, name: str, count: int = 1) -> list[dict[str, Any]]:
        """Wait until it told of something `count` times."""
        with anyio.fail_after(ANSWER_S):
            while True:
                found = [event for event in self.events if event["event"] == name]
                if len(found) >= count:
                    return found
                await self._changed.wait()

    async def listen(self) -> None:
        assert self._process.stdout is not None
        rest = ""
        async for text in TextReceiveStream(self._process.stdout):
            *lines, rest = (rest + text).split("\n")
            for line in map(json.loads, lines):
                if "event" in line:
                    self.events.append(line)
                else:
                    self._answers[line["number"]] = line
            changed, self._changed = self._changed, anyio.Event()
            changed.set()


@asynccontextmanager
async def run(command: list[str], url: str, board: str, agent: str) -> AsyncGenerator[Foreign]:
    """Run a foreign agent; it ends with the block, and what it wrote on stderr is shown."""
    arguments = [*command, url, board, agent]
    async with await anyio.open_process(arguments, stderr=None) as process:
        foreign = Foreign(process)
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(foreign.listen)
                await foreign.event("ready")
                yield foreign
                group.cancel_scope.cancel()
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()


def command(language: str, name: str, directory: Path) -> list[str]:
    """The start of the command that runs a file in `foreign/`; `directory` is for its packages."""
    return python_command(name) if language == "python" else node_command(name, directory)


def python_command(name: str) -> list[str]:
    """The start of the command that runs a Python file in `foreign/`."""
    return [sys.executable, str(FOREIGN / f"{name}.py")]


def node_command(name: str, directory: Path) -> list[str]:
    """The start of the command that runs a JavaScript file, its packages installed.

    Skips the test where that cannot be: no node, no npm, or no way to the packages.
    """
    node = shutil.which("node")
    if node is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not both installed")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
    if int(version.removeprefix("v").split(".")[0]) < NODE_AT_LEAST:
        pytest.skip(f"node {version.strip()} is older than {NODE_AT_LEAST}")
    # Programs find packages beside themselves, and the tree has no place for either.
    for path in FOREIGN.glob("*.mjs"):
        shutil.copy(path, directory)
    (directory / "node_modules").symlink_to(_installed() / "node_modules")
    return [node, str(directory / f"{name}.mjs")]


def _installed() -> Path:
    lock = (FOREIGN / "package-lock.json").read_bytes()
    place = CACHE / hashlib.sha256(lock).hexdigest()[:16]
    if place.exists():
        return place
    CACHE.mkdir(parents=True, exist_ok=True)
    # Installed aside and moved, so that tests which run at the same time never see half of it.
    with tempfile.TemporaryDirectory(dir=CACHE) as aside:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(FOREIGN / name, aside)
        npm = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        done = subprocess.run(npm, cwd=aside, capture_output=True, text=True, check=False)
        if done.returncode != 0 and any(word in done.stderr for word in UNREACHABLE):
            pytest.skip(f"npm cannot reach its packages: {done.stderr.strip()[-300:]}")
        assert done.returncode == 0, done.stderr
        finished = Path(aside) / "done"
        finished.mkdir()
        (Path(aside) / "node_modules").rename(finished / "node_modules")
        with contextlib.suppress(OSError):  # another was faster
            finished.rename(place)
    return place
