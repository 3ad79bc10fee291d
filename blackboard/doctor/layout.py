"""Whether the streams of a board are as they should be, and where they lie."""

from collections.abc import AsyncGenerator, Iterator, Sequence

import msgspec

from blackboard.alteration import Change, apply
from blackboard.doctor.check import FULL, Check, gib
from blackboard.jetstream import Connection, StreamInfo
from blackboard.layout import is_announced, streams_of
from blackboard.settings import Limits
from blackboard.subjects import memory_stream

SILENT_S = 5.0
"""A replica answers its leader's heartbeats about once a second."""
MEANING = {
    "max_age": "so memories vanish after that",
    "max_msgs": "so writes are refused from there on",
    "max_msg_size": "so larger memories are refused",
    "max_consumers": "so the broker's own limit of 1,000 may hold",
    "discard": "so a full board drops memories in silence",
    "no_ack": "so no write is ever confirmed",
    "sealed": "so nothing can be written",
    "deny_delete": "so nothing can be forgotten for good",
    "deny_purge": "so whoever may purge it can empty it",
    "allow_rollup_hdrs": "with which any writer can wipe it",
    "allow_msg_schedules": "with which a writer can write as another",
    "allow_direct": "so nothing can be read by reference",
    "allow_atomic": "so no handler can commit what it made",
    "allow_msg_ttl": "so nothing can be written that ends by itself",
}


class _Streams(msgspec.Struct):
    total: int = 0
    streams: list[StreamInfo] = []


async def checks(connection: Connection, board: str, limits: Limits) -> AsyncGenerator[Check]:
    """Look at the streams of a board, and at those beside it that may get in its way."""
    changes = await apply(connection, board, limits, dry_run=True)
    there = await _all_streams(connection)
    streams = {stream.name: stream for stream in streams_of(board, limits, connection.prefix)}
    # What lies in memory goes with the broker, and the agents make it again.
    volatile = {name for name, stream in streams.items() if stream.storage == "memory"}
    wrong = [one for one in changes if not (one.setting == "stream" and one.stream in volatile)]
    yield _as_they_should_be(wrong, len(streams))
    own = [info for info in there if info.name in streams]
    yield _mirrors(board, there)
    if limits.replicas > 1:
        yield _replicas(own)
        yield _addresses(connection)
    elif any(map(is_announced, own)):
        text = (
            "replicas are announced but not there, so reads ask the leader more than they have to"
        )
        do = "let blackboard apply --replicas end, or take it back: blackboard apply"
        yield Check("replicas", "warn", text, do)
    for check in _room(own):
        yield check


async def _all_streams(connection: Connection) -> list[StreamInfo]:
    found: list[StreamInfo] = []
    while True:
        body = await connection.api("STREAM.LIST", {"offset": len(found)})
        page = msgspec.json.decode(body, type=_Streams)
        found += page.streams
        if not page.streams or len(found) >= page.total:
            return found


def _as_they_should_be(wrong: Sequence[Change], count: int) -> Check:
    missing = sorted(one.stream for one in wrong if one.setting == "stream")
    texts = [f"not there: {', '.join(missing)}"] if missing else []
    for one in wrong:
        if one.setting != "stream":
            meaning = f", {MEANING[one.setting]}" if one.setting in MEANING else ""
            texts.append(
                f"{one.stream} has {one.setting}={one.before} instead of {one.after}{meaning}"
            )
    if not texts:
        return Check("streams", "ok", f"{count} streams, as this version makes them")
    do = (
        "blackboard apply makes what is missing and sets back what can be; for the rest it says why"
    )
    return Check("streams", "fail", "; ".join(texts), do)


def _mirrors(board: str, there: Sequence[StreamInfo]) -> Check:
    memory = memory_stream(board)
    mirrors = [info.name for info in there if _mirrored(info) == memory]
    if mirrors:
        return Check(
            "mirrors",
            "fail",
            f"{', '.join(mirrors)} mirrors the board and may answer reads with old revisions",
            "delete it, or keep it in another account",
        )
    return Check("mirrors", "ok", "none")


def _mirrored(info: StreamInfo) -> object:
    mirror: dict[str, object] | None = info.config.get("mirror")
    return None if mirror is None else mirror.get("name")


def _replicas(own: Sequence[StreamInfo]) -> Check:
    """Whether every copy is there and holds everything."""
    lacking = [one for info in own for one in info.cluster.replicas if not one.current]
    down = {one.name for one in lacking if one.offline or one.silent_s > SILENT_S}
    behind = {one.name for one in lacking} - down
    if down:
        text = f"{', '.join(sorted(down))} is down; when one more goes, nothing can be written"
        return Check("replicas", "warn", text, "start it again")
    if behind:
        text = f"{', '.join(sorted(behind))} is behind, or just went down"
        do = "see that it runs, and stop no other server before it is in step"
        return Check("replicas", "warn", text, do)
    leaders = ", ".join(sorted({info.cluster.leader for info in own}))
    return Check("replicas", "ok", f"all in step, led by {leaders}")


def _addresses(connection: Connection) -> Check:
    if connection.servers > 1:
        return Check("addresses", "ok", f"this client knows {connection.servers} servers")
    text = "this client knows one server only; when that is down, it finds none"
    return Check(
        "addresses", "warn", text, "name all, separated by commas: --url or BLACKBOARD_URL"
    )


def _room(own: Sequence[StreamInfo]) -> Iterator[Check]:
    for info in own:
        limit = int(info.config.get("max_bytes", -1))
        # What discards the old may be full; what refuses the new must not be.
        if info.config.get("discard") == "new" and 0 < FULL * limit < info.state.bytes:
            text = f"{info.name} holds {gib(info.state.bytes)} of {gib(limit)}"
            do = "retire what is not needed, or raise its limit: blackboard apply --memory-bytes …"
            yield Check("room", "warn", text, do)
        consumers = int(info.config.get("max_consumers", -1))
        if 0 < FULL * consumers < info.state.consumer_count:
            text = f"{info.name} has {info.state.consumer_count} of {consumers} consumers"
            do = "allow more, or watchers and handlers are refused: blackboard apply --consumers …"
            yield Check("consumers", "warn", text, do)
