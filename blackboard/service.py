"""A service: a process that works for every board of a broker, as long as each is there.

The steward, recall and the consolidator are services. What they do differs; here is what they share
about being a process, and about boards that come and go.
"""

import logging
import signal
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager

import anyio
import msgspec

from blackboard.access.identity import Identity
from blackboard.background import background
from blackboard.errors import BlackboardError, InvalidError, SettingsError, UnavailableError
from blackboard.jetstream import Connection
from blackboard.layout import boards, is_restoring
from blackboard.session import Desk, Session
from blackboard.settings import Limits, Settings, load
from blackboard.subjects import check_token, memory_stream

logger = logging.getLogger(__name__)

CREATED = "$JS.EVENT.ADVISORY.STREAM.CREATED.*"
LOOK_S = 60.0
"""How often the boards are looked for when the broker does not tell of a new one."""
RETRY_S = 1.0
ALL = "*"
"""Boards that a service's credential is for."""

Serve = Callable[[Connection, Settings], Awaitable[None]]
"""Serves a broker until cancelled."""
Keep = Callable[[str], Awaitable[None]]
"""Does a service's work for the board of that name until cancelled."""


def run_service(agent: str, serve: Serve) -> int:
    """Run a service in this process, for the broker at BLACKBOARD_URL, and log to standard error.

    It ends on SIGTERM and SIGINT, and waits for a broker that is away.

    Args:
        agent: The service's name, also on the connection.
        serve: Gets a connection that survives the broker's restarts.

    Returns:
        The exit code: 0 after a signal, 2 when the settings cannot be used.
    """
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr
    )
    logging.Formatter.converter = time.gmtime
    code = 0
    try:
        # No spans are recorded here, so nothing has to be exported.
        settings = msgspec.structs.replace(load(), otlp_endpoint=None)
        anyio.run(_run, agent, settings, serve)
    except* SettingsError as errors:
        for error in _leaves(errors):
            logger.error("%s", error)  # noqa: TRY400 - a sentence for the operator
        code = 2
    return code


async def keep_boards(connection: Connection, keep: Keep) -> None:
    """Keep every board on the broker until cancelled; boards may come and go meanwhile.

    Args:
        connection: Survives the broker's restarts.
        keep: Called for each board, and cancelled when that is gone. When it returns or raises a
            `BlackboardError`, which is logged, it is called again a second later.
    """
    kept: dict[str, tuple[str, anyio.CancelScope]] = {}
    async with connection.listen(CREATED) as told, anyio.create_task_group() as group:
        while True:
            try:
                found = await _boards(connection)
            except BlackboardError as error:
                logger.warning("cannot look for boards: %s", error)
                await anyio.sleep(RETRY_S)
                continue
            for board, (created, scope) in tuple(kept.items()):
                if found.get(board) != created:
                    logger.info("board %s is gone", board)
                    scope.cancel()
                    del kept[board]
            for board in found.keys() - kept.keys():
                logger.info("board %s", board)
                kept[board] = found[board], anyio.CancelScope()
                group.start_soon(_keep, keep, board, kept[board][1])
            await told(LOOK_S)


@asynccontextmanager
async def take_desk(
    connection: Connection, settings: Settings, board: str, agent: str
) -> AsyncGenerator[Desk]:
    """Give a service's place at a board for the block, in which its journal is written."""
    async with background() as group:
        session = Session(connection, settings.url or connection.url, settings, Limits(), group)
        yield session.desk(board, agent)


def _leaves(errors: BaseExceptionGroup[SettingsError]) -> Iterator[BaseException]:
    """The errors in a group, however deep the task groups were that they went through."""
    for error in errors.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


async def _run(agent: str, settings: Settings, serve: Serve) -> None:
    if settings.url is None:
        raise SettingsError(f"set BLACKBOARD_URL to the broker that {agent} shall serve")
    async with anyio.create_task_group() as group:
        group.start_soon(_end_when_asked, group.cancel_scope)
        while True:
            try:
                identity = None
                if settings.credentials is not None:
                    identity = Identity.find(settings.credentials, ALL, agent)
                async with Connection.open(
                    settings.url, token=settings.token(), identity=identity, name=agent
                ) as connection:
                    await serve(connection, settings)
            except UnavailableError as error:
                logger.warning("%s", error)
                await anyio.sleep(RETRY_S)


async def _end_when_asked(scope: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            logger.info("asked to stop by %s", number.name)
            scope.cancel()
            return


async def _boards(connection: Connection) -> dict[str, str]:
    """The boards, and when each was made: one may be deleted and made anew between two looks."""
    found: dict[str, str] = {}
    for board in await boards(connection):
        try:
            check_token("board", board)
        except InvalidError:
            continue  # somebody else's stream with a name like ours
        info = await connection.stream(memory_stream(board))
        if info is not None and not is_restoring(info):
            found[board] = info.created
    return found


async def _keep(keep: Keep, board: str, scope: anyio.CancelScope) -> None:
    with scope:
        while True:
            try:
                await keep(board)
            except BlackboardError as error:
                logger.warning("board %s: %s", board, error)
            await anyio.sleep(RETRY_S)
