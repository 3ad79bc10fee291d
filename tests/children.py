"""Programs of `tests/programs` in processes of their own, that tell what they did line by line."""

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


class Child:
    """One running program. What it says lies in a file, so that no kill can lose a line.

    Args:
        program: A module of `tests/programs`, or the full name of another.
        directory: Where its output goes.
        name: Of its output.
        options: What the program is told, as JSON.
    """

    def __init__(self, program: str, directory: Path, name: str, options: dict[str, Any]) -> None:
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        module = program if "." in program else f"tests.programs.{program}"
        self.name = name
        self._output = directory / f"{name}.jsonl"
        self._said: list[dict[str, Any]] = []
        self._offset = 0
        self._errors = directory / f"{name}.err"
        with self._output.open("wb") as said, self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, json.dumps(options)],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=errors,
                cwd=directory,
                env={**os.environ, "PYTHONPATH": path},
            )

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def code_now(self) -> int | None:
        """Its exit code; None while it runs."""
        return self._process.poll()

    def complaints(self) -> str:
        """What it wrote to its standard error."""
        return self._errors.read_text()

    def said(self) -> list[dict[str, Any]]:
        """What it said so far; a line that it was killed in does not count."""
        with self._output.open("rb") as output:
            output.seek(self._offset)
            new = output.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._offset += len(whole)
        self._said += [json.loads(line) for line in whole.splitlines()]
        return self._said

    async def until(
        self,
        predicate: Callable[[list[dict[str, Any]]], object],
        what: str,
        timeout_s: float = 30,
    ) -> None:
        """Wait until what it said fulfils a condition; its end without that is a failure."""

        def fulfilled() -> bool:
            ended = not self.running
            if predicate(self.said()):
                return True
            assert not ended, f"{self.name} ended before {what}: {self._errors.read_text()[-3000:]}"
            return False

        await wait_until(fulfilled, f"{self.name}: {what}", timeout_s)

    async def ended(self, timeout_s: float = 30) -> list[dict[str, Any]]:
        """Wait for its good end, and give what it said."""
        await wait_until(lambda: not self.running, f"{self.name} has ended", timeout=timeout_s)
        assert self._process.returncode == 0, self._errors.read_text()[-3000:]
        return self.said()

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def terminate(self) -> None:
        """SIGTERM: it ends in good order."""
        self.signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL; works on a stopped process too."""
        self._process.kill()
        self._process.wait()


@contextmanager
def children(directory: Path) -> Generator[Callable[..., Child]]:
    """Give a function that starts programs; those still running at the end are killed."""
    with ExitStack() as stack:

        def start(program: str, name: str, /, **options: Any) -> Child:
            child = Child(program, directory, name, options)
            stack.callback(child.kill)
            return child

        yield start


def tell(**facts: Any) -> None:
    """Say something, in a child: one line, written at once."""
    os.write(sys.stdout.fileno(), json.dumps(facts).encode() + b"\n")


def told() -> dict[str, Any]:
    """What this child was told."""
    return json.loads(sys.argv[1])
