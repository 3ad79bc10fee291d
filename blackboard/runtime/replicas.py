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
    codes: list[int] = []
    processes: list[Process] = []
    told: list[signal.Signals] = []

    async def mind(process: Process) -> None:
        code = await process.wait()
        if told and code == -signal.SIGTERM:
            code = CLEAN  # before it had begun
        codes.append(code)
        if code < 0 and len(codes) < replicas:
            # It could not say so itself, and those that are left look like all of them.
            logger.warning("replicas.killed", extra={"pid": process.pid, "signal": -code})

    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        try:
            async with anyio.create_task_group() as relay:
                relay.start_soon(_pass_on, signals, processes, told)
                async with anyio.create_task_group() as group:
                    for _ in range(max(1, replicas)):
                        # A session of its own: Ctrl-C comes from us, and so only once.
                        process = await anyio.open_process(
                            command,
                            stdin=None,
                            stdout=None,
                            stderr=None,
                            env=_environment(settings),
                            start_new_session=True,
                        )
                        processes.append(process)
                        group.start_soon(mind, process)
                        if told:
                            process.terminate()  # it came too late to be told with the others
                relay.cancel_scope.cancel()
        finally:
            for process in processes:
                if process.returncode is None:
                    process.terminate()
    return max((FAILED if code < 0 else code for code in codes), default=FAILED)


async def _pass_on(
    signals: AsyncIterator[signal.Signals],
    processes: list[Process],
    told: list[signal.Signals],
) -> None:
    async for number in signals:
        logger.info("replicas.signal", extra={"signal": number.name})
        told.append(number)
        for process in processes:
            if process.returncode is None:
                # To an early SIGINT, Python answers with a traceback.
                process.send_signal(signal.SIGTERM)


def _environment(settings: Settings | None) -> dict[str, str]:
    environment = dict(os.environ)  # noqa: TID251 - handed on, not read
    if settings is None:
        return environment
    environment["BLACKBOARD_BOARD"] = settings.board
    environment["BLACKBOARD_DATA"] = str(settings.data_dir)
    if settings.url is None:
        environment.pop("BLACKBOARD_URL", None)
    else:
        environment["BLACKBOARD_URL"] = settings.url
    if settings.token_file is not None:
        environment["BLACKBOARD_TOKEN_FILE"] = str(settings.token_file)
    return environment
