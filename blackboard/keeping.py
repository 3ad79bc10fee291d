"""The retention policy of a board, read from it and put on it: metadata of the board's own stream.

Writers look at the stream's settings every few seconds anyway, so they follow a change without
being told. Only who may change the stream may change the policy: an operator.
"""

import logging

import msgspec

from blackboard.errors import ConflictError, InvalidError, NotFoundError
from blackboard.jetstream import Connection, StreamInfo
from blackboard.retention import RETENTION, Retention, retention_of
from blackboard.subjects import memory_stream

logger = logging.getLogger(__name__)

MAX_BYTES = 96 * 1024
"""The broker takes 128 KiB of metadata."""
TRIES = 5


async def policy_of(connection: Connection, board: str) -> Retention | None:
    """The policy of a board; None when it has none.

    Raises:
        NotFoundError: There is no such board.
        UnavailableError: The broker does not answer.
    """
    return retention_of((await _stream(connection, board)).config)


async def put_policy(connection: Connection, board: str, policy: Retention) -> bool:
    """Put a policy on a board; in force within seconds. False when the board has it already.

    Args:
        connection: Of an operator.
        board: The board's name.
        policy: The policy.

    Raises:
        InvalidError: It is too long.
        NotFoundError: There is no such board.
        BrokerError: The broker does not let this client.
        UnavailableError: The broker does not answer.
    """
    text = msgspec.json.encode(policy).decode()
    if len(text) > MAX_BYTES:
        raise InvalidError(f"a retention policy of {len(text)} bytes; it may take {MAX_BYTES}")
    for attempt in range(TRIES):
        info = await _stream(connection, board)
        metadata = dict(info.config.get("metadata") or {})
        if metadata.get(RETENTION) == text:
            if attempt:
                logger.info("board.retention", extra={"board": board, "policy": policy.digest})
            return attempt > 0
        # The broker has no compare-and-set here: look again whether somebody else was at it.
        config = {**info.config, "metadata": {**metadata, RETENTION: text}}
        await connection.api(f"STREAM.UPDATE.{info.name}", config)
    raise ConflictError(f"the settings of {memory_stream(board)}")


async def _stream(connection: Connection, board: str) -> StreamInfo:
    info = await connection.stream(memory_stream(board))
    if info is None:
        raise NotFoundError(f"there is no board {board!r} on this broker")
    return info
