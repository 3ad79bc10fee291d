"""The steward as a service: every board on the broker, as long as it is there.

Each board is followed by its headers, so `forgotten` and `moved` are acted on as they come. An idle
board costs a heartbeat in five seconds.
"""

import logging
from datetime import timedelta

import anyio

from blackboard import clock
from blackboard.errors import BlackboardError, InvalidError
from blackboard.jetstream import Connection, serve_requests
from blackboard.layout import boards
from blackboard.roster import Roster
from blackboard.session import Desk, Session
from blackboard.settings import Limits, Settings
from blackboard.steward.chunks import CHUNK_AGE, Chunks
from blackboard.steward.gate import Gate, inbox_of
from blackboard.steward.tombstones import GRACE, Tombstones, check_grace
from blackboard.subjects import check_token, memory_stream, service_subject

logger = logging.getLogger(__name__)

AGENT = "steward"
CREATED = "$JS.EVENT.ADVISORY.STREAM.CREATED.*"
LOOK_S = 60.0
"""How often the boards are looked for when the broker does not tell of a new one."""
TICK_S = 5.0
"""How late what is due may be taken up."""
CHUNKS_S = 600.0
RETRY_S = 1.0
SETTLE_S = 0.05
"""A policy that is applied comes as one message an agent."""


async def serve(
    connection: Connection,
    settings: Settings,
    *,
    grace: timedelta = GRACE,
    chunk_age: timedelta = CHUNK_AGE,
) -> None:
    """Tend every board on the broker until cancelled; boards may come and go meanwhile.

    Args:
        connection: Survives the broker's restarts.
        settings: Of this process.
        grace: As for `sweep`.
        chunk_age: As for `sweep`.

    Raises:
        SettingsError: `grace` cannot be used.
    """
    check_grace(grace)
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
                keeper = _Keeper(connection, settings, board, grace, chunk_age)
                kept[board] = found[board], keeper.scope
                group.start_soon(keeper.run)
            await told(LOOK_S)


async def _boards(connection: Connection) -> dict[str, str]:
    """The boards, and when each was made: one may be deleted and made anew between two looks."""
    found: dict[str, str] = {}
    for board in await boards(connection):
        try:
            check_token("board", board)
        except InvalidError:
            continue  # somebody else's stream with a name like ours
        info = await connection.stream(memory_stream(board))
        if info is not None:
            found[board] = info.created
    return found


class _Keeper:
    """Tends one board; `scope` ends it."""

    def __init__(
        self,
        connection: Connection,
        settings: Settings,
        board: str,
        grace: timedelta,
        chunk_age: timedelta,
    ) -> None:
        self.scope = anyio.CancelScope()
        self._connection = connection
        self._settings = settings
        self._board = board
        self._grace = grace
        self._chunk_age = chunk_age

    async def run(self) -> None:
        with self.scope:
            async with anyio.create_task_group() as group:
                url = self._settings.url or ""
                session = Session(self._connection, url, self._settings, Limits(), group)
                desk = session.desk(self._board, AGENT)
                tombstones = Tombstones(desk.log, desk.journal, grace=self._grace, now=clock.now)
                chunks = Chunks(desk.log, desk.journal, age=self._chunk_age, now=clock.now)
                if self._connection.identity is not None:
                    group.start_soon(self._guard, desk)
                group.start_soon(self._watch, tombstones)
                group.start_soon(self._tend, tombstones, chunks)

    async def _guard(self, desk: Desk) -> None:
        """Serve the agents of a board with credentials, within their rights."""
        roster = Roster(self._connection, self._board)

        async def note(agent: str, act: str, what: str, outcome: str) -> None:
            desk.journal.audit(act, f"{agent}: {what}", outcome=outcome)

        gate = Gate(self._connection, self._board, roster, note)
        handlers = {"api": (service_subject(self._board, "api", "*"), gate.answer)}
        async with anyio.create_task_group() as group:
            group.start_soon(roster.run)
            group.start_soon(self._enforce, roster, gate)
            while True:
                try:
                    async with serve_requests(
                        self._connection,
                        f"steward-{self._board}",
                        handlers,
                        description=f"lets agents use board {self._board} within their rights",
                        metadata={"board": self._board},
                        inbox_of=inbox_of,
                    ):
                        await anyio.sleep_forever()
                except BlackboardError as error:
                    logger.warning("board %s: %s", self._board, error)
                await anyio.sleep(RETRY_S)

    async def _enforce(self, roster: Roster, gate: Gate) -> None:
        """Cut consumers down as soon as rights change."""
        while True:
            await roster.change()
            await anyio.sleep(SETTLE_S)
            while True:
                try:
                    await gate.enforce()
                    break
                except BlackboardError as error:
                    logger.warning("cannot hold consumers against the policy: %s", error)
                    await anyio.sleep(RETRY_S)

    async def _watch(self, tombstones: Tombstones) -> None:
        while True:
            try:
                await tombstones.watch()
            except BlackboardError as error:
                logger.warning("cannot follow board %s: %s", self._board, error)
            await anyio.sleep(RETRY_S)

    async def _tend(self, tombstones: Tombstones, chunks: Chunks) -> None:
        # Not at once: whoever starts a stack wants to use it now.
        due = anyio.current_time() + TICK_S
        while True:
            await anyio.sleep(TICK_S)
            await tombstones.tend()
            if anyio.current_time() < due:
                continue
            due = anyio.current_time() + CHUNKS_S
            try:
                await chunks.collect()
            except BlackboardError as error:
                logger.warning("cannot look for chunks of board %s: %s", self._board, error)
