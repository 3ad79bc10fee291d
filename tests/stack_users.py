"""Processes that use the local stack: what a test starts, and the program that it starts."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from blackboard.errors import BlackboardError
from blackboard.local import join
from blackboard.local.directory import Directory

ROOT = Path(__file__).resolve().parents[1]


class User:
    """A process that joins the stack of a data directory and stays until it is told to leave.

    Args:
        data_dir: The data directory.
        port: Where the stack should listen; 0 for any port.
        environment: Replaces variables of this process's environment.
        cwd: Working directory; None means that of this process.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        port: int = 0,
        environment: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.stack_users", str(data_dir), str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path, **(environment or {})},
            cwd=cwd,
        )

    async def joined(self) -> dict[str, Any]:
        """Wait until it has joined, and give what it found: `url`, `started`, or `error`."""
        assert self._process.stdout is not None
        with anyio.fail_after(30):
            line = await anyio.to_thread.run_sync(self._process.stdout.readline)
        return json.loads(line)

    async def leave(self) -> None:
        """Let it leave the stack, and wait until it is gone."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        await anyio.to_thread.run_sync(self._reap)

    def kill(self) -> None:
        """SIGKILL: it leaves without a word."""
        self._process.send_signal(signal.SIGKILL)
        self._reap()

    def _reap(self) -> None:
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


def pids(data_dir: Path) -> dict[str, int]:
    """Process ids by name, as the state file says."""
    state = Directory.at(data_dir).read_state()
    assert state is not None, "no state file"
    return state.pids


async def _main() -> None:
    try:
        async with join(Path(sys.argv[1]), port=int(sys.argv[2])) as endpoint:
            _say(url=endpoint.url, started=endpoint.started, pids=pids(endpoint.data_dir))
            await anyio.to_thread.run_sync(sys.stdin.readline)
    except BlackboardError as error:
        _say(error=type(error).__name__, text=str(error))


def _say(**facts: Any) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    anyio.run(_main)
