"""An agent as a process of its own: arguments, settings, logs, signals and the exit code."""

import argparse
import json
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime

import anyio

from blackboard.board import Blackboard
from blackboard.errors import BlackboardError, InvalidError, SettingsError
from blackboard.jetstream.message import rfc3339
from blackboard.runtime.declared import Declaration
from blackboard.runtime.runner import GRACE_S, Runner, only, running
from blackboard.times import parse_time
from blackboard.watch import Since

logger = logging.getLogger(__name__)

PARENT_S = 1.0
CLEAN, FAILED, WRONG_SETTINGS = 0, 1, 2
PLAIN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


def run(agent: Declaration, argv: Sequence[str] | None = None) -> int:
    """Run an agent until it is told to stop; returns the exit code. See `Agent.run`."""
    options = parser(agent.name).parse_args(argv)
    log_to_stderr()
    try:
        start = parse_start(options.start)
        try:
            anyio.run(_serve, agent, start, options)
        except BaseExceptionGroup as errors:
            raise only(errors) from None
    except SettingsError as error:
        logger.error("agent.settings", extra={"agent": agent.name, "error": str(error)})  # noqa: TRY400 - the text says it all
        return WRONG_SETTINGS
    except BlackboardError as error:
        logger.error("agent.failed", extra={"agent": agent.name, "error": str(error)})  # noqa: TRY400
        return FAILED
    except Exception:
        logger.exception("agent.failed", extra={"agent": agent.name})
        return FAILED
    return CLEAN


def parser(name: str) -> argparse.ArgumentParser:
    """The arguments of an agent's program."""
    arguments = argparse.ArgumentParser(
        description=f"Run the agent {name!r} on the board that BLACKBOARD_URL and "
        "BLACKBOARD_BOARD name, or on the local stack of BLACKBOARD_DATA."
    )
    arguments.add_argument(
        "--start",
        metavar="now|start|TIME|AGO",
        help="begin there anew, as a new run (default: go on; a new handler begins now)",
    )
    arguments.add_argument(
        "--grace",
        type=float,
        default=GRACE_S,
        metavar="SECONDS",
        help="time to finish what is in hand after SIGTERM (default: %(default)s)",
    )
    # From `run_file` to its replicas: what makes them one launch, and whom not to outlive.
    arguments.add_argument("--launch", help=argparse.SUPPRESS)
    arguments.add_argument("--parent", type=int, help=argparse.SUPPRESS)
    return arguments


def parse_start(text: str | None) -> datetime | str | None:
    """Read `--start`.

    Raises:
        SettingsError: It is neither now, start, a time with time zone, nor how long ago.
    """
    if text is None or text in ("now", "start"):
        return text
    try:
        return parse_time(text, "--start")
    except InvalidError as error:
        raise SettingsError(f"{error}; or now, or start") from error


async def _serve(agent: Declaration, start: Since | str, options: argparse.Namespace) -> None:
    life = Life()
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with anyio.create_task_group() as group:
            group.start_soon(life.listen, signals)
            if options.parent is not None:
                group.start_soon(life.follow, options.parent)
            with life.before:
                async with (
                    Blackboard.open(agent=agent.name) as board,
                    running(
                        agent, board, start=start, grace_s=options.grace, launch=options.launch
                    ) as runner,
                ):
                    life.runner = runner
                    await life.over.wait()
            group.cancel_scope.cancel()


class Life:
    """What the signals mean: leave in good order; then, leave now."""

    def __init__(self) -> None:
        self.runner: Runner | None = None
        self.over = anyio.Event()
        self.before = anyio.CancelScope()

    async def listen(self, signals: AsyncIterator[signal.Signals]) -> None:
        """Act on each signal."""
        async for number in signals:
            logger.info("agent.signal", extra={"signal": number.name})
            self.end()

    def end(self) -> None:
        """Leave in good order; called again, leave now."""
        if self.runner is None:
            self.before.cancel()
        elif self.over.is_set():
            self.runner.hurry()
        self.over.set()

    async def follow(self, parent: int) -> None:
        """End when the process that started this one has died without a word."""
        while os.getppid() == parent:  # noqa: ASYNC110 - nothing tells of it
            await anyio.sleep(PARENT_S)
        logger.warning("agent.orphaned", extra={"parent": parent})
        self.end()


def log_to_stderr() -> None:
    """Write log records as JSON lines to stderr, unless the program has set up its own."""
    root = logging.getLogger()
    if root.handlers:
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    root.addHandler(handler)
    root.setLevel(logging.INFO)


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, event, and the facts."""

    def format(self, record: logging.LogRecord) -> str:
        """Write one record."""
        line: dict[str, object] = {
            "at": rfc3339(datetime.fromtimestamp(record.created, UTC)),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        line.update({k: v for k, v in record.__dict__.items() if k not in PLAIN})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)
