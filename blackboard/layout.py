"""What a board is made of at the broker: its streams and buckets, and how they are made.

Every stream has a byte limit and refuses new messages when it is full: a full board answers with an
error and never drops a memory silently. Only what is worthless when old (audit, spans, letters,
presence) gives way to the new. Streams that exist keep their settings; `alteration` changes them.
"""

import logging
from collections.abc import Mapping
from typing import Any

import msgspec

from blackboard.access.identity import ACCESS_STREAM
from blackboard.errors import NotFoundError
from blackboard.jetstream import Connection, Stream, StreamInfo
from blackboard.ledger.streams import ledger_stream, ledger_streams, reads_stream
from blackboard.settings import MIB, Limits
from blackboard.subjects import (
    audit_stream,
    blob_stream,
    check_token,
    dead_stream,
    memory_stream,
    presence_bucket,
    spans_stream,
    state_bucket,
)

logger = logging.getLogger(__name__)

PRESENCE_S = 15.0
"""A card that is not refreshed for this long is gone."""
DAY_S = 24 * 3600.0
ANNOUNCED = "blackboard-replicas"
"""In a stream's metadata: it has replicas, or will have them soon, so reads have to be careful."""
RESTORING = "blackboard-restoring"
"""In a board's metadata: not all of it is there, so it is no board yet."""


def streams_of(board: str, limits: Limits, prefix: str = "") -> list[Stream]:
    """The streams of a board; the projection comes last, because it reads the board.

    Args:
        board: The board's name.
        limits: What it may hold.
        prefix: Of a connection to a broker with credentials; see `access.identity`.
    """
    memory = memory_stream(board)
    # Only there does the broker know who reads.
    streams = ledger_streams(board, limits) if prefix else []
    streams += [
        Stream(
            name=blob_stream(board),
            subjects=(f"blob.{board}.>",),
            description="content above 256 KiB, in chunks",
            max_bytes=limits.blob_bytes,
            atomic=True,
        ),
        Stream(
            name=audit_stream(board),
            subjects=(f"audit.{board}.>",),
            description="who read and did what",
            max_bytes=limits.audit_bytes,
            max_age_s=30 * DAY_S,
            discard="old",
            compressed=True,
        ),
        Stream(
            name=spans_stream(board),
            subjects=(f"spans.{board}.>",),
            description="OpenTelemetry spans",
            max_bytes=limits.spans_bytes,
            max_age_s=7 * DAY_S,
            discard="old",
            compressed=True,
        ),
        Stream(
            name=dead_stream(board),
            subjects=(f"dead.{board}.>", f"retry.{board}.>"),
            description="memories that handlers gave up on, and the wish to try again",
            max_bytes=limits.dead_bytes,
            discard="old",
        ),
        _presence(board),
        Stream(
            name=memory,
            subjects=(f"mem.{board}.>", f"claim.{board}.>"),
            description="a blackboard",
            max_bytes=limits.memory_bytes,
            history=limits.history,
            atomic=True,
            ttl=True,
        ),
        Stream(
            name=f"KV_{state_bucket(board)}",
            sources=(
                {
                    "name": memory,
                    "subject_transforms": [
                        {
                            "src": f"mem.{board}.shared.*.state.>",
                            "dest": f"$KV.{state_bucket(board)}.>",
                        }
                    ],
                },
            ),
            description="projection: the newest shared state of topics under state.",
            max_bytes=limits.memory_bytes // 4,
            history=1,
            discard="old",
            ttl=True,
        ),
    ]
    return [
        msgspec.structs.replace(
            stream, replicas=limits.replicas, consumers=limits.consumers, prefix=prefix
        )
        for stream in streams
    ]


def _presence(board: str) -> Stream:
    return Stream(
        name=f"KV_{presence_bucket(board)}",
        subjects=(f"$KV.{presence_bucket(board)}.>",),
        description="one card per running agent",
        max_bytes=8 * MIB,
        max_age_s=PRESENCE_S,
        history=1,
        discard="old",
        storage="memory",
    )


async def create_presence(connection: Connection, board: str, limits: Limits) -> None:
    """Make the stream of the cards again: it lies in memory, so a broker that restarts lost it.

    Raises:
        BrokerError: This client may not.
        UnavailableError: The broker does not answer.
    """
    stream = _presence(board)
    await connection.create_stream(
        msgspec.structs.replace(
            stream,
            replicas=limits.replicas,
            consumers=limits.consumers,
            prefix=connection.prefix,
        )
    )


async def create_board(connection: Connection, board: str, limits: Limits) -> None:
    """Make what a board lacks; what is there stays as it is. Safe to call from many at once.

    Raises:
        BoardFullError: The broker's store has no room for the byte limits.
        UnavailableError: The broker does not answer.
    """
    check_token("board", board)
    for stream in streams_of(board, limits, connection.prefix):
        await connection.create_stream(stream)
    logger.info("board.created", extra={"board": board})


def access_stream(limits: Limits, prefix: str) -> Stream:
    """The stream of what everybody may do, on every board."""
    return Stream(
        name=ACCESS_STREAM,
        subjects=("access.>",),
        description="what each agent may do, as the access policy in force says",
        max_bytes=64 * MIB,
        history=1,
        replicas=limits.replicas,
        consumers=limits.consumers,
        prefix=prefix,
    )


async def secure_board(connection: Connection, board: str) -> None:
    """Have the streams of a board listen where no forged reply can go, for good.

    What they hold stays as it is. Does nothing to streams that listen there already.

    Raises:
        BrokerError: This client may not.
        UnavailableError: The broker does not answer.
    """
    memory = await connection.stream(memory_stream(board))
    replicas = 1 if memory is None else int(memory.config.get("num_replicas") or 1)
    limits = Limits(replicas=replicas)
    for stream in ledger_streams(board, limits):
        await connection.create_stream(stream)
    streams = streams_of(board, limits, connection.prefix)
    for stream in (*streams, access_stream(limits, connection.prefix)):
        info = await connection.stream(stream.name)
        if info is None or not stream.subjects:
            continue
        wanted = stream.config()
        if info.config.get("subjects") != wanted["subjects"]:
            config = {
                **info.config,
                "subjects": wanted["subjects"],
                "subject_transform": wanted.get("subject_transform"),
            }
            await connection.api(f"STREAM.UPDATE.{stream.name}", config)
            logger.info("board.secured", extra={"board": board, "stream": stream.name})


async def delete_board(connection: Connection, board: str) -> None:
    """Delete a board and everything on it, for good."""
    for stream in (*streams_of(board, Limits()), *ledger_streams(board, Limits())):
        await connection.delete_stream(stream.name)


async def boards(connection: Connection) -> list[str]:
    """The names of the boards on this broker."""
    prefix = memory_stream("")
    return [name.removeprefix(prefix) for name in await connection.streams(prefix)]


def is_announced(info: StreamInfo) -> bool:
    """Whether a stream says of itself that its reads have to be careful."""
    return ANNOUNCED in (info.config.get("metadata") or {})


def is_restoring(info: StreamInfo) -> bool:
    """Whether a restore of a board is under way, or was interrupted."""
    return RESTORING in (info.config.get("metadata") or {})


async def limits_of(connection: Connection, board: str) -> Limits:
    """What an existing board may hold, as the broker has it.

    Where a stream is missing or has no limit, which is never wanted, that is the default.

    Raises:
        NotFoundError: There is no such board.
        UnavailableError: The broker does not answer.
    """
    found: dict[str, dict[str, Any]] = {}
    for stream in streams_of(board, Limits(), connection.prefix):
        info = await connection.stream(stream.name)
        if info is not None:
            found[stream.name] = info.config
    if memory_stream(board) not in found:
        there = ", ".join(await boards(connection)) or "none"
        raise NotFoundError(f"no board {board!r} on this broker; there is: {there}")
    return limits_in(board, found)


def limits_in(board: str, found: Mapping[str, Mapping[str, Any]]) -> Limits:
    """What a board may hold, as the settings of its streams say; by name, that of memories too."""
    memory = found[memory_stream(board)]
    sizes = {
        "memory_bytes": memory_stream(board),
        "blob_bytes": blob_stream(board),
        "audit_bytes": audit_stream(board),
        "spans_bytes": spans_stream(board),
        "dead_bytes": dead_stream(board),
        "reads_bytes": reads_stream(board),
        "ledger_bytes": ledger_stream(board),
    }
    limits = {
        **{size: found.get(name, {}).get("max_bytes") for size, name in sizes.items()},
        "history": memory.get("max_msgs_per_subject"),
        "consumers": memory.get("max_consumers"),
        "replicas": memory.get("num_replicas"),
    }
    return Limits(**{name: int(value) for name, value in limits.items() if value and value > 0})
