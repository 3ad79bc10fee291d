"""Keeping one board's access policy in force: agents served within it, and cut off by it."""

import logging
from functools import partial

import anyio

from blackboard.access.identity import SERVICES, inbox_of
from blackboard.errors import BlackboardError
from blackboard.forgery import described, probe_of, try_forgeries
from blackboard.jetstream import Answer, Connection, Handler, serve_requests
from blackboard.layout import secure_board
from blackboard.ledger import Ledger, Violations, load_key
from blackboard.ledger.receipt import receipt_path
from blackboard.ledger.teller import VERB, record
from blackboard.roster import Roster
from blackboard.service import RETRY_S
from blackboard.settings import Settings
from blackboard.steward.gate import Gate
from blackboard.subjects import service_subject

logger = logging.getLogger(__name__)

SETTLE_S = 0.05
"""A policy that is applied comes as one message an agent."""
AGAIN_S = 10.0
"""How soon a board that is closed is looked at again."""


async def keep_rights(
    connection: Connection, board: str, settings: Settings, roster: Roster
) -> None:
    """Serve a board's agents within their rights, and keep its ledger, until cancelled.

    While the broker can be made to store forgeries, or it cannot be tried, nobody is served.

    Raises:
        SettingsError: The board's key cannot be used.
        BlackboardError: Its streams cannot be made to listen where no forgery can go.
    """
    await secure_board(connection, board)
    while True:
        unsafe = await _unsafe(connection, settings, board)
        if unsafe is None:
            break
        logger.error("board %s is closed: %s", board, unsafe)
        with anyio.move_on_after(AGAIN_S):
            await _serve(connection, board, _closed(unsafe))
    logger.info("board %s stores no forgeries; its agents are served", board)
    ledger = _ledger(connection, board, settings, roster)
    gate = Gate(connection, board, roster, ledger)
    async with anyio.create_task_group() as group:
        group.start_soon(roster.run)
        group.start_soon(ledger.run)
        group.start_soon(_enforce, roster, gate)
        await _serve(connection, board, gate.answer, ledger)


def _ledger(connection: Connection, board: str, settings: Settings, roster: Roster) -> Ledger:
    key = settings.board_key or settings.data_dir / "board.key"

    def agent_of(credential: str) -> str | None:
        return next(
            (agent for agent, rights in roster.all.items() if rights.key == credential), None
        )

    log = settings.broker_log
    return Ledger(
        connection,
        board,
        load_key(key),
        receipt=receipt_path(key, board),
        violations=None if log is None else Violations(log, f"log {settings.machine}", agent_of),
    )


async def _unsafe(connection: Connection, settings: Settings, board: str) -> str | None:
    """Why a board may not be served; None when no forgery is stored."""
    try:
        probe = probe_of(settings.credentials, board)
        forged = await try_forgeries(connection, probe, board)
    except BlackboardError as error:
        return f"whether this broker stores forged messages is not known: {error}"
    return described(forged) if forged else None


def _closed(reason: str) -> Handler:
    async def refuse(_: str, __: bytes) -> Answer:
        return 503, f"the steward serves nobody here, because {reason}"

    return refuse


async def _serve(
    connection: Connection, board: str, handler: Handler, ledger: Ledger | None = None
) -> None:
    handlers = {"api": (service_subject(board, "api", "*"), handler)}
    if ledger is not None:
        handlers[VERB] = service_subject(board, VERB, "*"), partial(record, ledger, SERVICES)
    while True:
        try:
            async with serve_requests(
                connection,
                f"steward-{board}",
                handlers,
                description=f"lets agents use board {board} within their rights",
                metadata={"board": board},
                inbox_of=inbox_of,
            ):
                await anyio.sleep_forever()
        except BlackboardError as error:
            logger.warning("board %s: %s", board, error)
        await anyio.sleep(RETRY_S)


async def _enforce(roster: Roster, gate: Gate) -> None:
    """Cut consumers down as soon as rights change."""
    seen = 0
    while True:
        seen = await roster.change(seen)
        await anyio.sleep(SETTLE_S)
        while True:
            try:
                await gate.enforce()
                break
            except BlackboardError as error:
                logger.warning("cannot hold consumers against the policy: %s", error)
                await anyio.sleep(RETRY_S)
