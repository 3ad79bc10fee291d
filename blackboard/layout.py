"""What a board is made of at the broker: its streams and buckets, and how they are made.

Every stream has a byte limit and refuses new messages when it is full: a full board answers with an
error and never drops a memory silently. Only what is worthless when old (audit, spans, letters,
presence) gives way to the new. Streams that exist keep their settings; `apply` changes them.
"""

import logging
from typing import Any, Literal

import anyio
import msgspec

from blackboard.errors import BoardFullError, InvalidError, NotFoundError, UnavailableError
from blackboard.jetstream import BrokerError, Connection, Stream, StreamInfo
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
IN_STEP_S = 120.0
"""How long new replicas may take to copy a stream while `apply` waits for them."""
POLL_S = 0.05
APPLIED = (
    "max_bytes",
    "max_msgs_per_subject",
    "max_consumers",
    "subjects",
    "discard",
    "storage",
    "retention",
    "allow_direct",
    "allow_msg_ttl",
    "allow_atomic",
    "allow_rollup_hdrs",
    "deny_purge",
    "num_replicas",  # last: while a stream is copied, the broker had better change nothing else
)
"""What `apply` brings a stream to; whatever else was set on it stays, its `max_age` included."""


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One setting of one stream that is not as it is wanted.

    Attributes:
        stream: Its name.
        setting: The broker's name for it; `stream` when the stream itself was missing.
        before: As it was.
        after: As it is wanted.
        state: done; planned, in a dry run; refused: it is as before.
        why: Of a refusal: the reason, and what to do instead.
    """

    stream: str
    setting: str
    before: Any
    after: Any
    state: Literal["done", "planned", "refused"]
    why: str = ""


def streams_of(board: str, limits: Limits) -> list[Stream]:
    """The streams of a board; the projection comes last, because it reads the board."""
    memory = memory_stream(board)
    streams = [
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
        msgspec.structs.replace(stream, replicas=limits.replicas, consumers=limits.consumers)
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
        msgspec.structs.replace(stream, replicas=limits.replicas, consumers=limits.consumers)
    )


async def create_board(connection: Connection, board: str, limits: Limits) -> None:
    """Make what a board lacks; what is there stays as it is. Safe to call from many at once.

    Raises:
        BoardFullError: The broker's store has no room for the byte limits.
        UnavailableError: The broker does not answer.
    """
    check_token("board", board)
    for stream in streams_of(board, limits):
        await connection.create_stream(stream)
    logger.info("board.created", extra={"board": board})


async def delete_board(connection: Connection, board: str) -> None:
    """Delete a board and everything on it, for good."""
    for stream in streams_of(board, Limits()):
        await connection.delete_stream(stream.name)


async def boards(connection: Connection) -> list[str]:
    """The names of the boards on this broker."""
    prefix = memory_stream("")
    return [name.removeprefix(prefix) for name in await connection.streams(prefix)]


async def limits_of(connection: Connection, board: str) -> Limits:
    """What an existing board may hold, as the broker has it; the default where a stream is missing.

    Raises:
        NotFoundError: There is no such board.
        UnavailableError: The broker does not answer.
    """
    found: dict[str, dict[str, Any]] = {}
    for stream in streams_of(board, Limits()):
        info = await connection.stream(stream.name)
        if info is not None:
            found[stream.name] = info.config
    memory = found.get(memory_stream(board))
    if memory is None:
        there = ", ".join(await boards(connection)) or "none"
        raise NotFoundError(f"no board {board!r} on this broker; there is: {there}")
    sizes = {
        "memory_bytes": memory_stream(board),
        "blob_bytes": blob_stream(board),
        "audit_bytes": audit_stream(board),
        "spans_bytes": spans_stream(board),
        "dead_bytes": dead_stream(board),
    }
    limits = Limits(
        **{size: int(found[name]["max_bytes"]) for size, name in sizes.items() if name in found},
        history=int(memory.get("max_msgs_per_subject", -1)),
        replicas=int(memory.get("num_replicas", 1)),
    )
    # Without a number of its own the broker's default of 1,000 holds, which is never wanted.
    allowed = int(memory.get("max_consumers", -1))
    return msgspec.structs.replace(limits, consumers=allowed) if allowed > 0 else limits


async def apply(
    connection: Connection, board: str, limits: Limits, *, dry_run: bool = False
) -> list[Change]:
    """Bring the streams of an existing board to these limits; nothing stored is lost.

    Each setting is changed or refused by itself, so one that the broker cannot change holds up no
    other. Doing it again does what is left. Returns when new replicas hold everything.

    Args:
        connection: With the right to change streams.
        board: The board's name.
        limits: What it shall hold.
        dry_run: Only say what would be done, and what would be refused as far as that shows.

    Returns:
        What was not as it is wanted, and what became of it; empty when all was.

    Raises:
        InvalidError: A limit is below 1.
        NotFoundError: There is no such board.
        UnavailableError: The broker does not answer, or the replicas are not in step in time; what
            was changed stays, do it again.
    """
    wrong = [name for name, value in msgspec.structs.asdict(limits).items() if value < 1]
    if wrong:
        raise InvalidError(f"{wrong[0]} must be at least 1")
    await limits_of(connection, board)
    changes: list[Change] = []
    for stream in streams_of(board, limits):
        info = await connection.stream(stream.name)
        if info is None:
            state = "planned" if dry_run else "done"
            changes.append(
                Change(stream=stream.name, setting="stream", before=None, after="made", state=state)
            )
            if not dry_run:
                await connection.create_stream(stream)
            continue
        changes += await _apply(connection, info, stream.config(), dry_run=dry_run)
    moved = {one.stream for one in changes if (one.setting, one.state) == ("num_replicas", "done")}
    for stream in streams_of(board, limits):
        if stream.name in moved:
            await _in_step(connection, stream)
    logger.info("board.applied", extra={"board": board, "changes": len(changes)})
    return changes


async def _apply(
    connection: Connection, info: StreamInfo, wanted: dict[str, Any], *, dry_run: bool
) -> list[Change]:
    changes: list[Change] = []
    config = dict(info.config)
    for setting in APPLIED:
        before, after = config.get(setting), wanted.get(setting)
        if (before or None) == (after or None):
            continue
        why = await _loss(connection, info, setting, after)
        if not why and not dry_run:
            why = await _update(connection, {**config, setting: after})
        state = "refused" if why else ("planned" if dry_run else "done")
        if state != "refused":
            config[setting] = after
        changes.append(
            Change(
                stream=info.name,
                setting=setting,
                before=before,
                after=after,
                state=state,
                why=why,
            )
        )
    return changes


async def _update(connection: Connection, config: dict[str, Any]) -> str:
    """Change a stream; returns why not."""
    try:
        await connection.api(f"STREAM.UPDATE.{config['name']}", config)
    except (BrokerError, BoardFullError) as error:
        return str(error)
    return ""


async def _loss(connection: Connection, info: StreamInfo, setting: str, after: Any) -> str:
    """Why a setting cannot be had without losing what is stored, or at all; empty when it can."""
    state = info.state
    if setting in {"storage", "retention"}:
        return f"the broker fixes it when a stream is made; delete {info.name} to have it made anew"
    if setting == "max_bytes" and 0 < after < state.bytes:
        return f"{state.bytes} bytes are stored there; allow at least as many"
    if setting == "max_consumers" and after < state.consumer_count:
        return f"{state.consumer_count} consumers are there; allow at least as many"
    if setting == "max_msgs_per_subject" and after > 0:
        most = await _most_revisions(connection, info)
        if most > after:
            return f"a memory has {most} revisions, and the oldest would be lost; keep as many"
    return ""


async def _most_revisions(connection: Connection, info: StreamInfo) -> int:
    most = seen = 0
    while True:
        body = {"subjects_filter": ">", "offset": seen}
        answer = await connection.api(f"STREAM.INFO.{info.name}", body)
        subjects = msgspec.json.decode(answer, type=StreamInfo).state.subjects
        if not subjects:
            return most
        most = max(most, *subjects.values())
        seen += len(subjects)


class _Replica(msgspec.Struct):
    current: bool = False


class _Cluster(msgspec.Struct):
    leader: str = ""
    replicas: list[_Replica] = []
    desired: dict[str, Any] | None = None
    """Where it shall lie, as long as it does not."""


class _Placed(msgspec.Struct):
    cluster: _Cluster = msgspec.field(default_factory=_Cluster)


async def _in_step(connection: Connection, stream: Stream) -> None:
    """Wait until every replica of a stream holds all of it."""
    with anyio.move_on_after(IN_STEP_S):
        while True:
            answer = await connection.api(f"STREAM.INFO.{stream.name}")
            cluster = msgspec.json.decode(answer, type=_Placed).cluster
            current = 1 + sum(replica.current for replica in cluster.replicas)
            if cluster.leader and cluster.desired is None and current == stream.replicas:
                return
            await anyio.sleep(POLL_S)
    raise UnavailableError(
        f"the replicas of {stream.name} do not hold all of it after {IN_STEP_S:g} s; the broker "
        "goes on copying, apply again to see whether it is done"
    )
