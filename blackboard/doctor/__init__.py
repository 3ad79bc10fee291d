"""What can go wrong with a board, looked at from a client: one finding a line, with what to do.

It only reads. What a client cannot see, like how often a broker elsewhere syncs its disk, is said
to be unknown instead of taken for granted; with the address of the broker's monitoring it is seen.
"""

from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

from blackboard.board import Blackboard
from blackboard.doctor import broker, contents, index, layout, monitoring, retention
from blackboard.doctor.check import Check
from blackboard.errors import BlackboardError, NotFoundError, UnavailableError
from blackboard.jetstream import StreamInfo
from blackboard.layout import limits_of
from blackboard.local import read_endpoint
from blackboard.session import Session, open_session
from blackboard.settings import Limits, Settings
from blackboard.subjects import memory_stream

__all__ = ["Check", "examine"]


async def examine(settings: Settings, agent: str, monitors: Sequence[str] = ()) -> list[Check]:
    """Look at the broker and at the board that the settings name; makes nothing.

    Args:
        settings: Where to look.
        agent: The name to look under.
        monitors: Addresses of the servers' monitoring, for what a client cannot see. That of a
            local stack is known.

    Returns:
        The findings. When the broker does not answer or the board is not there, that is the last.
    """
    found = [broker.client()]
    try:
        async with open_session(
            settings, settings.board, agent, limits=Limits(), create=False, required=False
        ) as session:
            async for check in _looks(session, agent, monitors):
                found.append(check)  # noqa: PERF401 - what was found before a failure is kept
    except NotFoundError as error:
        do = "name one of them with --board, or make this one by putting something on it"
        found.append(Check("board", "fail", str(error), do))
    except UnavailableError as error:
        found.append(_silent(error, reached=len(found) > 1))
    except BlackboardError as error:
        found.append(Check("board", "fail", str(error)))
    return found


def _silent(error: UnavailableError, *, reached: bool) -> Check:
    if reached:
        do = "its servers may be choosing a leader: look again in 10 s, then start what is down"
        return Check("board", "fail", f"no answer: {error}", do)
    text, _, do = str(error).partition("; ")
    return Check("broker", "fail", text, do)


async def _looks(session: Session, agent: str, monitors: Sequence[str]) -> AsyncGenerator[Check]:
    connection, settings = session.connection, session.settings
    yield broker.server(connection)
    served = await broker.jetstream(connection)
    if isinstance(served, Check):
        yield served
        return
    yield await broker.distance(connection)
    yield await broker.identity(connection, settings.board)
    if connection.identity is not None:
        yield await broker.forgeries(connection, _credentials(settings), settings.board)
    if settings.url is None and not monitors:
        endpoint = read_endpoint(settings.data_dir)
        monitors = [] if endpoint is None else [endpoint.monitor]
    memory = await connection.stream(memory_stream(settings.board))
    servers = await monitoring.servers(monitors)
    disks = settings.url is not None
    for check in monitoring.checks(servers, monitors, copies=_copies(memory), disks=disks):
        yield check
    for check in broker.store(served, settings, seen=bool(servers)):
        yield check
    limits = await limits_of(connection, settings.board)
    yield await broker.clock(connection, settings.board)
    async for check in layout.checks(connection, settings.board, limits):
        yield check
    board = Blackboard(session, session.desk(settings.board, agent))
    async for check in contents.checks(board):
        yield check
    async for check in retention.checks(board):
        yield check
    yield await index.check(board)


def _credentials(settings: Settings) -> Path | None:
    if settings.url is not None:
        return settings.credentials
    endpoint = read_endpoint(settings.data_dir)
    return None if endpoint is None else endpoint.credentials


def _copies(memory: StreamInfo | None) -> int:
    return 0 if memory is None else int(memory.config.get("num_replicas", 1))
