"""Runs an agent's file as several processes that share its work."""

import logging
import os
import signal
import sys
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
from anyio.abc import Process

from blackboard.runtime.loading import load_agent
from blackboard.runtime.process import CLEAN, FAILED, parse_start
from blackboard.settings import Settings

logger = logging.getLogger(__name__)


async def run_file(
    path: Path | str,
    *,
    replicas: int = 1,
    start: str | None = None,
    grace_s: float | None = None,
    settings: Settings | None = None,
) -> int:
    """Run replicas of a file's agent until all have ended; signals are passed on to them.

    None is started again: that is what a supervisor is for.

    Args:
        path: The agent's file.
        replicas: How many processes, at least 1.
        start: `now`, `start` or a time: begin there anew, all replicas together.
        grace_s: Seconds to finish what is in hand after SIGTERM.
        settings: Where the board is; None leaves it to the environment.

    Returns:
        The worst of their exit codes: 2 wrong settings, 1 failed or killed, 0 clean.

    Raises:
        SettingsError: The file has no agent, or `start` is no time; nothing was started.
    """
    load_agent(path)
    parse_start(start)
    command = [sys.executable, "-m", "blackboard.runtime", str(path)]
    command += ["--launch", uuid.uuid4().hex, "--parent", str(os.getpid())]
    command += [] if start is None else ["--start", start]
    command += [] if grace_s is None else ["--grace", str(grace_s)]
    environment = dict(os.environ)  # noqa: TID251 - handed on, not read
    if settings is not None:
        environment = settings.passed_on(environment)
    pool = _Pool(command, environment, max(1, replicas))
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with anyio.create_task_group() as relay:
            relay.start_soon(pool.pass_on, signals)
            await pool.run()
            relay.cancel_scope.cancel()
    return max((FAILED if code < 0 else code for code in pool.codes), default=FAILED)


class _Pool:
    """The processes of one launch.

    Attributes:
        codes: With what they ended, in that order; negative is the signal that killed one.
    """

    def __init__(self, command: list[str], environment: dict[str, str], size: int) -> None:
        self.codes: list[int] = []
        self._command = command
        self._environment = environment
        self._size = size
        self._processes: list[Process] = []
        self._told = False

    async def run(self) -> None:
        """Start them all, and wait until the last has ended."""
        try:
            async with anyio.create_task_group() as group:
                for _ in range(self._size):
                    group.start_soon(self._mind, await self._start())
        finally:
            self._terminate()

    async def pass_on(self, signals: AsyncIterator[signal.Signals]) -> None:
        """Pass on what this process is told, for as long as it listens."""
        async for number in signals:
            logger.info("replicas.signal", extra={"signal": number.name})
            self._told = True
            self._terminate()

    async def _start(self) -> Process:
        process = await anyio.open_process(
            self._command,
            stdin=None,
            stdout=None,
            stderr=None,
            env=self._environment,
            start_new_session=True,  # Ctrl-C comes from us, and so only once
        )
        self._processes.append(process)
        if self._told:
            process.terminate()  # it came too late to be told with the others
        return process

    async def _mind(self, process: Process) -> None:
        code = await process.wait()
        if self._told and code == -signal.SIGTERM:
            code = CLEAN  # before it had begun
        self.codes.append(code)
        if code < 0 and len(self.codes) < self._size:
            # It could not say so itself, and those that are left look like all of them.
            logger.warning("replicas.killed", extra={"pid": process.pid, "signal": -code})

    def _terminate(self) -> None:
        for process in self._processes:
            if process.returncode is None:
                process.terminate()  # to an early SIGINT, Python answers with a traceback
