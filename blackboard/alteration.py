"""Bringing the streams of a board that exists to their settings, without losing what is stored.

Each setting is changed or refused by itself: a refusal says why, and what to do. `doctor` looks by
the same list, so it finds nothing wrong that `apply` would leave alone.

A board that gets replicas is in use meanwhile. Its readers trust the answer of a single server for
up to half a minute, so it is announced first and done when all of them have noticed (`fresh`).
"""

import logging
from typing import Any, Final, Literal

import anyio
import msgspec

from blackboard.errors import BoardFullError, InvalidError, UnavailableError
from blackboard.fresh import LEARN_S, READ_S
from blackboard.jetstream import BrokerError, Connection, Stream, StreamInfo
from blackboard.layout import ANNOUNCED, access_stream, is_announced, limits_of, streams_of
from blackboard.settings import Limits
from blackboard.subjects import blob_stream, memory_stream

logger = logging.getLogger(__name__)

NOTICED_S = LEARN_S + READ_S
"""After this long every process has seen what was announced, reads that had begun included."""
IN_STEP_S = 120.0
"""How long new replicas may take to copy a stream while `apply` waits for them."""
POLL_S = 0.05
SIZES = (1, 3, 5)
"""An even number of replicas stands no more losses than the odd one below it, and costs more."""
SETTINGS = (
    "max_bytes",
    "max_msgs_per_subject",
    "max_consumers",
    "subjects",
    "sources",
    "discard",
    "storage",
    "retention",
    "allow_direct",
    "allow_msg_ttl",
    "allow_atomic",
    "allow_rollup_hdrs",
    "allow_msg_schedules",
    "deny_purge",
    "deny_delete",
    "no_ack",
    "sealed",
)
KEEPING = ("max_age", "max_msgs", "max_msg_size")
"""Of streams that never give way to the new: what would drop or refuse memories there. On the
others these are the operator's choice, such as how long the audit is kept."""
REFUSALS: Final = {
    10005: "too few servers have room for as many copies; start more of them, or free their disks",
    10052: "it was made on a server alone, to be written without a sync, which the broker fixes "
    "then and which replicas do not allow; once no agent reads and the ledger has all of it (see "
    "`blackboard audit verify`), delete it and apply again",
    10074: "this is a single server; replicas need a cluster of at least as many servers",
}
"""The broker's codes, and what they mean for replicas."""


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


async def apply(
    connection: Connection, board: str, limits: Limits, *, dry_run: bool = False
) -> list[Change]:
    """Bring the streams of an existing board to these limits; nothing stored is lost.

    One setting that cannot be changed holds up no other. Doing it again does what is left. Returns
    when new replicas hold everything; to give a board its first ones takes `NOTICED_S` more.

    Args:
        connection: With the right to change streams.
        board: The board's name.
        limits: What it shall hold.
        dry_run: Only say what would be done, and what would be refused as far as that shows.

    Returns:
        What was not as it is wanted, and what became of it; empty when all was.

    Raises:
        InvalidError: A limit is below 1, or the number of replicas is none of `SIZES`.
        NotFoundError: There is no such board.
        UnavailableError: The broker does not answer, or the replicas are not in step in time; what
            was changed stays, do it again.
    """
    wrong = [name for name, value in msgspec.structs.asdict(limits).items() if value < 1]
    if wrong:
        raise InvalidError(f"{wrong[0]} must be at least 1")
    before = await limits_of(connection, board)
    if limits.replicas not in (before.replicas, *SIZES):
        raise InvalidError(f"replicas must be {', '.join(map(str, SIZES))}, not {limits.replicas}")
    changes = await _all_settings(connection, board, limits, before, dry_run=dry_run)
    streams = streams_of(board, limits, connection.prefix)
    if connection.prefix and limits.replicas > before.replicas:
        # All boards share it. A server that died would take along who may do what on this one.
        streams.append(access_stream(limits, connection.prefix))
    changes += await _spread(connection, board, streams, dry_run=dry_run)
    logger.info("board.applied", extra={"board": board, "changes": len(changes)})
    return changes


async def _all_settings(
    connection: Connection, board: str, limits: Limits, before: Limits, *, dry_run: bool
) -> list[Change]:
    """Change the settings of all streams, replicas excepted."""
    *own, _ = streams_of(board, limits, connection.prefix)
    changes = [
        change for stream in own for change in await _settings(connection, stream, dry_run=dry_run)
    ]
    refused = {(one.stream, one.setting) for one in changes if one.state == "refused"}
    if (memory_stream(board), "max_bytes") in refused:
        # The room of the projection follows that of the board, which is as it was.
        limits = msgspec.structs.replace(limits, memory_bytes=before.memory_bytes)
    *_, projection = streams_of(board, limits, connection.prefix)
    return changes + await _settings(connection, projection, dry_run=dry_run)


async def _spread(
    connection: Connection, board: str, streams: list[Stream], *, dry_run: bool
) -> list[Change]:
    """Give streams their number of replicas; returns when these hold everything."""
    if not dry_run:
        await _announce(connection, board, streams[0].replicas)
    changes: list[Change] = []
    moved: list[Stream] = []
    for stream in streams:
        change = await _replicas(connection, stream, dry_run=dry_run)
        if change is not None:
            changes.append(change)
            if change.state == "done":
                moved.append(stream)
    for stream in moved:
        await _in_step(connection, stream)
    if not dry_run:
        await _withdraw(connection, board)
    return changes


async def _settings(connection: Connection, stream: Stream, *, dry_run: bool) -> list[Change]:
    """Change what is not as it is wanted, replicas excepted."""
    info = await connection.stream(stream.name)
    if info is None:
        why = "" if dry_run else await _make(connection, stream)
        return [_change(stream.name, "stream", None, "made", why, dry_run=dry_run)]
    changes: list[Change] = []
    wanted, config = stream.config(), dict(info.config)
    for setting in SETTINGS + (KEEPING if stream.discard == "new" else ()):
        before, after = config.get(setting), wanted.get(setting)
        if _same(setting, before, after):
            continue
        why = await _loss(connection, info, setting, after)
        if not why and not dry_run:
            why = await _update(connection, {**config, setting: after})
        if not why:
            config[setting] = after
        changes.append(_change(info.name, setting, before, after, why, dry_run=dry_run))
    return changes


async def _replicas(connection: Connection, stream: Stream, *, dry_run: bool) -> Change | None:
    """Change a stream's number of replicas; None when it is as it is wanted."""
    info = await connection.stream(stream.name)
    before = stream.replicas if info is None else int(info.config.get("num_replicas", 1))
    if info is None or before == stream.replicas:
        return None
    why = "" if info.cluster.name or stream.replicas == 1 else REFUSALS[10074]
    if not why and not dry_run:
        why = await _update(connection, {**info.config, "num_replicas": stream.replicas})
    return _change(info.name, "num_replicas", before, stream.replicas, why, dry_run=dry_run)


def _change(
    stream: str, setting: str, before: object, after: object, why: str, *, dry_run: bool
) -> Change:
    state = "refused" if why else ("planned" if dry_run else "done")
    return Change(stream=stream, setting=setting, before=before, after=after, state=state, why=why)


def _same(setting: str, before: Any, after: Any) -> bool:
    if setting == "sources":  # the broker adds to them
        return bool(before) == bool(after)
    none = (None, False, 0, -1)
    return before == after or (before in none and after in none)


async def _make(connection: Connection, stream: Stream) -> str:
    """Make a stream that is missing; returns why not."""
    try:
        await connection.create_stream(stream)
    except (BoardFullError, BrokerError) as error:
        return _refusal(error)
    return ""


async def _update(connection: Connection, config: dict[str, Any]) -> str:
    """Change a stream; returns why not."""
    try:
        await connection.api(f"STREAM.UPDATE.{config['name']}", config)
    except (BoardFullError, BrokerError) as error:
        return _refusal(error)
    return ""


def _refusal(error: BoardFullError | BrokerError) -> str:
    if isinstance(error, BoardFullError):
        return "the broker's store has no room for that; raise its max_file_store, or allow less"
    return REFUSALS.get(error.code, str(error))


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


async def _announce(connection: Connection, board: str, replicas: int) -> None:
    """Tell readers that soon any of several servers may answer, and wait until all know."""
    if replicas == 1:
        return
    names = [memory_stream(board), blob_stream(board)]
    alone = {info.name for name in names if (info := await _alone(connection, name)) is not None}
    while alone:
        for name in alone:
            info = await _alone(connection, name)
            # Also when it stands there already: whoever wrote it may not have waited.
            why = "" if info is None else await _update(connection, _marked(info, marked=True))
            if why:
                raise UnavailableError(f"cannot announce the replicas of {name}: {why}")
        logger.info("board.announced", extra={"board": board, "seconds": NOTICED_S})
        await anyio.sleep(NOTICED_S)
        # Somebody else who applies other settings meanwhile may have taken it back.
        infos = [await _alone(connection, name) for name in alone]
        alone = {info.name for info in infos if info is not None and not is_announced(info)}


async def _alone(connection: Connection, name: str) -> StreamInfo | None:
    """A stream that has no replicas but could have; else None."""
    info = await connection.stream(name)
    if info is None or not info.cluster.name or int(info.config.get("num_replicas", 1)) > 1:
        return None
    return info


async def _withdraw(connection: Connection, board: str) -> None:
    """Take the announcement back where there are no replicas now."""
    for name in (memory_stream(board), blob_stream(board)):
        info = await connection.stream(name)
        if info is None or int(info.config.get("num_replicas", 1)) > 1:
            continue
        if is_announced(info):
            await _update(connection, _marked(info, marked=False))


def _marked(info: StreamInfo, *, marked: bool) -> dict[str, Any]:
    metadata = dict(info.config.get("metadata") or {})
    metadata.pop(ANNOUNCED, None)
    return {**info.config, "metadata": metadata | ({ANNOUNCED: "yes"} if marked else {})}


async def _in_step(connection: Connection, stream: Stream) -> None:
    """Wait until every replica of a stream holds all of it."""
    with anyio.move_on_after(IN_STEP_S):
        while True:
            info = await connection.stream(stream.name)
            if info is not None and _is_placed(info, stream.replicas):
                return
            await anyio.sleep(POLL_S)
    raise UnavailableError(
        f"the replicas of {stream.name} do not hold all of it after {IN_STEP_S:g} s; the broker "
        "goes on copying, apply again to see whether it is done"
    )


def _is_placed(info: StreamInfo, replicas: int) -> bool:
    where = info.cluster
    current = 1 + sum(replica.current for replica in where.replicas)
    return bool(where.leader) and where.desired is None and current == replicas
