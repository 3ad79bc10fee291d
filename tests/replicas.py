"""Agents of `tests/programs` as processes of their own, as an operator starts them."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = ROOT / "tests" / "programs"


class Replica:
    """One process of an agent.

    Args:
        program: A file of `tests/programs`, without `.py`, or a path.
        url: Of the broker.
        log: What it says goes there.
        arguments: For the program.
    """

    def __init__(self, program: str | Path, url: str, log: Path, *arguments: str) -> None:
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        file = PROGRAMS / f"{program}.py" if isinstance(program, str) else program
        self._log = log
        with log.open("wb") as said:
            self.process = subprocess.Popen(
                [sys.executable, str(file), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                env={**os.environ, "PYTHONPATH": path, "BLACKBOARD_URL": url},
            )

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def code_now(self) -> int | None:
        """Its exit code; None while it runs."""
        return self.process.poll()

    def said(self) -> str:
        return self._log.read_text()

    def events(self) -> list[dict[str, Any]]:
        """What it logged."""
        return [json.loads(line) for line in self.said().splitlines() if line.startswith("{")]

    async def until(self, event: str) -> None:
        """Wait until it logged an event."""

        def logged() -> bool:
            ended = not self.running
            if any(line["event"] == event for line in self.events()):
                return True
            assert not ended, self.said()[-3000:]
            return False

        await wait_until(logged, event, timeout=20)

    async def code(self) -> int:
        """Wait until it has ended, and give its exit code."""
        await wait_until(lambda: not self.running, f"the end; it said {self.said()}", timeout=20)
        return self.process.returncode

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def replicas(url: str, directory: Path) -> Generator[Callable[..., Replica]]:
    """Give a function that starts agents; those still running at the end are killed."""
    with ExitStack() as stack:
        count = 0

        def start(program: str | Path, *arguments: str) -> Replica:
            nonlocal count
            count += 1
            replica = Replica(program, url, directory / f"replica-{count}.log", *arguments)
            stack.callback(replica.kill)
            return replica

        yield start
