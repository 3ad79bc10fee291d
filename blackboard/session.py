"""What everybody on one connection shares: the connection, the journals, and work in flight.

A sibling board is the same session under another name, so it costs nothing to make one.
"""

import logging
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup

from blackboard.access.identity import Identity
from blackboard.background import background
from blackboard.claim import Flight
from blackboard.errors import DeniedError, NotFoundError, UnavailableError
from blackboard.fresh import FreshReads
from blackboard.jetstream import Connection, Outgoing, Restricted, StreamInfo
from blackboard.journal import Journal
from blackboard.layout import boards, create_board, is_restoring
from blackboard.local import join
from blackboard.log import Log
from blackboard.reader import Reader
from blackboard.settings import Limits, Settings
from blackboard.subjects import (
    blob_stream,
    check_name,
    check_token,
    memory_stream,
    state_bucket,
)
from blackboard.telemetry import Telemetry

logger = logging.getLogger(__name__)

CHOOSE_S = 10.0
"""How long nobody may answer for a stream whose leader died; the next one is there after 4 to 9."""
TRY_S = 2.0
RETRY_S = 0.25


@dataclass(slots=True)
class Desk:
    """One agent's place at one board: its log, its journal, and its reader."""

    log: Log
    journal: Journal
    reader: Reader


@dataclass(slots=True)
class Session:
    """One connection and what its users share.

    Attributes:
        connection: To the broker.
        url: Where the broker is, without the secret.
        settings: As read when the session began.
        instance: This session, as a UUID; on every message it writes.
        flights: Runs of `once` in this process, by board and key.
    """

    connection: Connection
    url: str
    settings: Settings
    limits: Limits
    group: TaskGroup
    instance: str = field(default_factory=lambda: uuid4().hex)
    flights: dict[str, Flight] = field(default_factory=dict[str, Flight])
    desks: dict[tuple[str, str], Desk] = field(default_factory=dict[tuple[str, str], Desk])
    streams: dict[str, FreshReads] = field(default_factory=dict[str, FreshReads])

    def desk(self, board: str, agent: str) -> Desk:
        """The place of an agent at a board; made on first use."""
        found = self.desks.get((board, agent))
        if found is None:
            check_token("board", board)
            check_name("agent", agent)
            self._check_identity(board, agent)
            found = self.desks[board, agent] = self._desk(board, agent)
        return found

    def _check_identity(self, board: str, agent: str) -> None:
        identity = self.connection.identity
        if identity is None or not identity.restricted:
            return
        if (board, agent) != (identity.board, identity.agent):
            raise DeniedError(
                f"this connection has the credential of agent {identity.agent!r} on board "
                f"{identity.board!r}, so it cannot be {agent!r} on {board!r}; "
                "open a connection with the other credential"
            )

    def reads(self, stream: str) -> FreshReads:
        """The reads of a stream, which know what any agent of this session saw there."""
        found = self.streams.get(stream)
        if found is None:
            found = self.streams[stream] = FreshReads(self.connection, stream)
            self.group.start_soon(found.keep_learning)
        return found

    async def close(self) -> None:
        """Send off what telemetry still holds for an OTLP endpoint; the journals end by themselves.

        Takes at most 2 s per agent and board, and nothing without an endpoint.
        """
        if self.settings.otlp_endpoint is None:
            return
        with anyio.CancelScope(shield=True):
            for desk in self.desks.values():
                await anyio.to_thread.run_sync(desk.log.telemetry.shutdown)

    def _desk(self, board: str, agent: str) -> Desk:
        connection = self.connection

        async def publish(subject: str, body: bytes) -> None:
            await connection.publish(Outgoing(subject, body))

        journal = Journal(board, agent, self.instance, publish)
        telemetry = Telemetry(
            board,
            agent,
            self.instance,
            journal.span,
            ratio=self.settings.trace_ratio,
            otlp_endpoint=self.settings.otlp_endpoint,
            otlp_protocol=self.settings.otlp_protocol,
        )
        log = Log(
            connection,
            board,
            agent,
            self.instance,
            telemetry,
            self.limits,
            reads=self.reads(memory_stream(board)),
            chunks=self.reads(blob_stream(board)),
        )
        self.group.start_soon(journal.run)
        return Desk(log, journal, Reader(log))


@asynccontextmanager
async def open_session(
    settings: Settings,
    board: str,
    agent: str,
    *,
    limits: Limits,
    create: bool,
    required: bool = True,
) -> AsyncGenerator[Session]:
    """Connect, make sure that the board is there, and write the journals until the end.

    Args:
        settings: Where the broker is.
        board: The board's name.
        agent: Who opens it.
        limits: What the board may hold when it is made.
        create: Make it when it is not there.
        required: Look for it at all; off for those who look at the broker itself.

    Raises:
        UnavailableError: The broker does not answer.
        SettingsError: The address, the token, the credential or the data directory cannot be used.
        DeniedError: The access policy does not know this agent.
        NotFoundError: There is no such board, it is required, and `create` is off.
    """
    check_token("board", board)
    check_name("agent", agent)
    async with AsyncExitStack() as stack:
        url, token, identity = settings.url, None, None
        if url is None:
            endpoint = await stack.enter_async_context(join(Path(settings.data_dir)))
            url, token = endpoint.url, endpoint.token
            if endpoint.credentials is not None:
                identity = Identity.find(endpoint.credentials, board, agent)
        elif settings.credentials is not None:
            identity = Identity.find(settings.credentials, board, agent)
        else:
            token = settings.token()
        kind = Restricted if identity is not None and identity.restricted else Connection
        connection = await stack.enter_async_context(
            kind.open(url, token=token, identity=identity, name=f"{agent}@{board}")
        )
        there = await _ensure(connection, board, limits, create=create) if required else None
        async with background() as group:
            session = Session(connection, connection.url, settings, limits, group)
            session.desk(board, agent)
            if there is not None:
                session.reads(memory_stream(board)).learn(there)
            try:
                yield session
            finally:
                await session.close()


async def _ensure(
    connection: Connection, board: str, limits: Limits, *, create: bool
) -> StreamInfo | None:
    there = await _info(connection, memory_stream(board))
    if there is not None and is_restoring(there):
        raise UnavailableError(
            f"board {board!r} is being restored; if nobody does that now, it was interrupted: run "
            "`blackboard restore` again"
        )
    # Whoever made the board may have died before the last of its streams.
    if there and (not create or await _info(connection, f"KV_{state_bucket(board)}") is not None):
        return there
    if not create:
        found = ", ".join(await boards(connection)) or "none"
        raise NotFoundError(f"no board {board!r} on this broker; there is: {found}")
    await create_board(connection, board, limits)
    return await _info(connection, memory_stream(board))


async def _info(connection: Connection, stream: str) -> StreamInfo | None:
    """What the broker says of a stream; waits while its servers choose who leads it."""
    began = anyio.current_time()
    while True:
        try:
            with anyio.move_on_after(TRY_S):
                return await connection.stream(stream)
            raise UnavailableError(f"the broker did not answer for {stream} within {TRY_S:g} s")
        except UnavailableError:
            if connection.closed or anyio.current_time() - began > CHOOSE_S:
                raise
            await anyio.sleep(RETRY_S)
