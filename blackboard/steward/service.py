"""The steward as a service: every board on the broker, as long as it is there.

Each board is followed by its headers, so `forgotten` and `moved` are acted on as they come. An idle
board costs a heartbeat in five seconds.
"""

import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial

import anyio

from blackboard import clock
from blackboard.access.identity import ACCOUNT, SYSTEM, Identity, beside
from blackboard.access.rights import Rights
from blackboard.errors import BlackboardError, SettingsError, UnavailableError
from blackboard.jetstream import Connection
from blackboard.jetstream.system import System
from blackboard.keeping import put_policy
from blackboard.ledger import load_key
from blackboard.receipts import Signer
from blackboard.retention import read_retention
from blackboard.roster import Roster
from blackboard.service import ALL, RETRY_S, keep_boards, take_desk
from blackboard.settings import Settings
from blackboard.steward.aging import Aging
from blackboard.steward.arrivals import Arrivals
from blackboard.steward.chunks import CHUNK_AGE, Chunks
from blackboard.steward.files import Files
from blackboard.steward.orders import Orders
from blackboard.steward.quotas import keep_quotas
from blackboard.steward.replicas import Replicas
from blackboard.steward.retaining import LOOK_S, Retaining
from blackboard.steward.rights import keep_rights
from blackboard.steward.tombstones import GRACE, Tombstones, check_grace

logger = logging.getLogger(__name__)

AGENT = "steward"
TICK_S = 5.0
"""How late what is due may be taken up."""
CHUNKS_S = 600.0


async def serve(
    connection: Connection,
    settings: Settings,
    *,
    grace: timedelta = GRACE,
    chunk_age: timedelta = CHUNK_AGE,
    look_s: float = LOOK_S,
) -> None:
    """Tend every board on the broker until cancelled; boards may come and go meanwhile.

    Args:
        connection: Survives the broker's restarts.
        settings: Of this process.
        grace: As for `sweep`.
        chunk_age: As for `sweep`.
        look_s: How often it looks for what has to go by the retention policy.

    Raises:
        SettingsError: `grace`, or the file of the retention policy, cannot be used.
    """
    check_grace(grace)
    path = settings.retention_file
    policy = None if path is None else read_retention(path)

    async def keep(board: str) -> None:
        async with take_desk(connection, settings, board, AGENT) as desk:
            roster = Roster(connection, board)
            aging = Aging(desk.log, desk.journal, now=clock.now)
            tombstones = Tombstones(
                desk.log,
                desk.journal,
                grace=grace,
                now=clock.now,
                reaches=roster.reaches,
                observe=aging.see,
            )
            chunks = Chunks(desk.log, desk.journal, age=chunk_age, now=clock.now)
            retaining = Retaining(desk, now=clock.now, look_s=look_s)
            if policy is not None and await put_policy(connection, board, policy):
                desk.journal.audit("retain", policy.digest)
            async with anyio.create_task_group() as group:
                if connection.identity is not None:
                    group.start_soon(keep_rights, connection, board, settings, roster)
                arrivals = Arrivals(desk, tombstones)
                orders = Orders(
                    desk,
                    tombstones,
                    arrivals,
                    Replicas(settings.monitors),
                    Files(desk.log, settings.stores),
                    partial(_signer, settings),
                )
                group.start_soon(_again, board, tombstones.watch)
                group.start_soon(_again, board, orders.watch)
                group.start_soon(_again, board, orders.work)
                group.start_soon(_again, board, arrivals.run)
                group.start_soon(_again, board, retaining.run)
                group.start_soon(_again, board, aging.run)
                group.start_soon(_tend, board, tombstones, chunks)

    async with anyio.create_task_group() as group:
        if connection.identity is not None:
            group.start_soon(_hold_to_quotas, connection, settings)
        await keep_boards(connection, keep)


async def _hold_to_quotas(connection: Connection, settings: Settings) -> None:
    path = beside(settings.credentials, SYSTEM)
    if path is None or not path.exists():
        logger.warning(
            "no credential of the broker's system account (%s), so nobody is held to a quota", path
        )
        return
    identity = Identity.read(path, ALL, SYSTEM)

    async def note(rights: Rights, why: str) -> None:
        async with take_desk(connection, settings, rights.board, AGENT) as desk:
            desk.journal.audit("cut", rights.agent, outcome=why)

    while True:
        try:
            async with Connection.open(
                settings.url or connection.url, identity=identity, name=AGENT
            ) as system:
                await keep_quotas(connection, System(system, ACCOUNT), note)
        except UnavailableError as error:
            logger.warning("%s", error)
            await anyio.sleep(RETRY_S)


def _signer(settings: Settings) -> Signer | None:
    """The board's key, which vouches for receipts; made when the first is written."""
    try:
        return load_key(settings.board_key or settings.data_dir / "board.key")
    except SettingsError as error:
        logger.warning("receipts of what was forgotten stay unsigned: %s", error)
        return None


async def _again(board: str, work: Callable[[], Awaitable[None]]) -> None:
    """Do what goes on for ever, again after each failure."""
    while True:
        try:
            await work()
        except BlackboardError as error:
            logger.warning("board %s: %s", board, error)
        await anyio.sleep(RETRY_S)


async def _tend(board: str, tombstones: Tombstones, chunks: Chunks) -> None:
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
            logger.warning("cannot look for chunks of board %s: %s", board, error)
