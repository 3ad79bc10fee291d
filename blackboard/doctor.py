"""What can go wrong with a board, looked at from a client: one finding a line, with what to do.

It only reads. What a client cannot see, like how often a broker elsewhere syncs its disk, is said
to be unknown instead of taken for granted.
"""

import importlib.metadata
import platform
import shutil
import time
import urllib.request
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import anyio.to_thread
import msgspec

from blackboard.board import Blackboard
from blackboard.clock import now
from blackboard.errors import BlackboardError, NotFoundError
from blackboard.health import Check, index_check
from blackboard.jetstream import Connection, ConsumerInfo, StreamInfo, consumers
from blackboard.layout import streams_of
from blackboard.local import read_endpoint
from blackboard.runtime.dead import list_dead
from blackboard.runtime.presence import list_cards
from blackboard.session import open_session
from blackboard.settings import Limits, Settings
from blackboard.subjects import memory_stream

OLDEST_SERVER = (2, 12)
"""The first with atomic batches."""
SLOW_MS = 50.0
CLOCK_S = 1.0
FULL = 0.8
"""Share of a byte limit from which on it is worth a warning; writers stop at 0.95."""
FREE_BYTES = 1 << 30
HISTORY_WAITS = 1_000
"""Memories that wait for a handler from which on it counts as behind."""
COMPARED = (
    "subjects",
    "sources",
    "retention",
    "discard",
    "storage",
    "max_msgs_per_subject",
    "allow_direct",
    "allow_msg_ttl",
    "allow_atomic",
    "deny_purge",
)


class _Account(msgspec.Struct):
    storage: int = 0
    reserved_storage: int = 0
    limits: dict[str, Any] = {}


class _Config(msgspec.Struct):
    sync_interval: int = 0
    sync_always: bool = False
    max_storage: int = 0


class _Jsz(msgspec.Struct):
    config: _Config = msgspec.field(default_factory=_Config)


class _User(msgspec.Struct):
    user: str = ""
    permissions: dict[str, Any] | None = None


class _UserInfo(msgspec.Struct):
    data: _User = msgspec.field(default_factory=_User)


class _Streams(msgspec.Struct):
    total: int = 0
    streams: list[StreamInfo] = []


class _Stamp(msgspec.Struct):
    ts: datetime | None = None


async def examine(settings: Settings, agent: str) -> list[Check]:
    """Look at the broker and at the board that the settings name; makes nothing.

    Args:
        settings: Where to look.
        agent: The name to look under.

    Returns:
        The findings. When the broker does not answer or the board is not there, that is the last.
    """
    found = [_client()]
    try:
        async with _opened(settings, agent) as board:
            async for check in _looks(board):
                found.append(check)  # noqa: PERF401 - what was found before a failure is kept
    except NotFoundError as error:
        do = "name one of them with --board, or make this one by putting something on it"
        found.append(Check("board", "fail", str(error), do))
    except BlackboardError as error:
        found.append(Check("board", "fail", str(error)))
    return found


@asynccontextmanager
async def _opened(settings: Settings, agent: str) -> AsyncGenerator[Blackboard]:
    name = settings.board
    async with open_session(settings, name, agent, limits=Limits(), create=False) as session:
        yield Blackboard(session, session.desk(name, agent))


async def _looks(board: Blackboard) -> AsyncGenerator[Check]:
    connection = board.session.connection
    yield _server(board)
    yield await _answers(connection, board)
    yield await _clock(board)
    yield await _identity(connection)
    yield await _fsync(board)
    yield await _store(board)
    for check in _streams(board, await _all_streams(connection)):
        yield check
    for check in await _handlers(board):
        yield check
    yield await _letters(board)
    yield await index_check(board)


def _client() -> Check:
    versions = [f"Python {platform.python_version()}"]
    for name in ("blackboard-agents", "nats-py"):
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{name} from a source tree")
    return Check("client", "ok", ", ".join(versions))


def _server(board: Blackboard) -> Check:
    version = board.connection.connected_server_version
    text = f"nats-server {version.major}.{version.minor}.{version.patch} at {board.url}"
    if (version.major, version.minor) < OLDEST_SERVER:
        wanted = ".".join(map(str, OLDEST_SERVER))
        return Check("broker", "fail", text, f"run nats-server {wanted} or later")
    return Check("broker", "ok", text)


async def _answers(connection: Connection, board: Blackboard) -> Check:
    times: list[float] = []
    for _ in range(5):
        begun = time.perf_counter()
        await connection.stream(memory_stream(board.name))
        times.append((time.perf_counter() - begun) * 1000)
    middle = sorted(times)[2]
    text = f"{middle:.2g} ms for a request to the broker"
    if middle > SLOW_MS:
        return Check("distance", "warn", text, "run agents near the broker, or read from a view")
    return Check("distance", "ok", text)


async def _clock(board: Blackboard) -> Check:
    asked = now()
    body = await board.session.connection.api(f"STREAM.INFO.{memory_stream(board.name)}")
    answered = now()
    stamp = msgspec.json.decode(body, type=_Stamp).ts
    if stamp is None:
        return Check("clock", "unknown", "the broker does not tell its time")
    apart = (asked + (answered - asked) / 2 - stamp).total_seconds()
    text = f"{abs(apart) * 1000:.0f} ms {'ahead of' if apart > 0 else 'behind'} the broker's"
    if abs(apart) > CLOCK_S:
        return Check(
            "clock", "warn", text, "synchronise the clocks (NTP): ttl and --since count on them"
        )
    return Check("clock", "ok", text)


async def _identity(connection: Connection) -> Check:
    do = "use this broker among people who trust each other, or give each agent a credential"
    try:
        answer = await connection.request("$SYS.REQ.USER.INFO")
        user = msgspec.json.decode(answer.data, type=_UserInfo).data
    except (BlackboardError, msgspec.MsgspecError):
        return Check("identity", "unknown", "the broker does not tell what this client may do", do)
    if user.permissions is None:
        text = "names are taken on trust: this client may write as any agent"
        return Check("identity", "warn", text, do)
    return Check(
        "identity", "ok", f"this client is {user.user!r}; the broker limits what it may do"
    )


async def _fsync(board: Blackboard) -> Check:
    settings = board.session.settings
    info = await board.session.connection.stream(memory_stream(board.name))
    copies = 1 if info is None else int(info.config.get("num_replicas", 1))
    endpoint = read_endpoint(settings.data_dir) if settings.url is None else None
    if endpoint is None:
        return _unseen_fsync(copies)
    config = await anyio.to_thread.run_sync(_monitored, f"{endpoint.monitor}/jsz?config=1")
    if config is None:
        return _unseen_fsync(copies)
    if config.sync_always:
        return Check("durability", "ok", "every write is on disk before it is acknowledged")
    every = config.sync_interval / 1e9
    return Check(
        "durability",
        "fail" if copies == 1 else "warn",
        f"the disk is synced every {every:.0f} s; a power cut loses what was acknowledged since",
        "set sync_interval: always in the jetstream block of the broker's configuration",
    )


def _unseen_fsync(copies: int) -> Check:
    if copies >= 3:
        return Check("durability", "ok", f"{copies} copies on different servers")
    return Check(
        "durability",
        "unknown",
        "one copy, and how often the broker syncs its disk cannot be seen from here",
        "make sure that its jetstream block says sync_interval: always (the default is 2 minutes)",
    )


def _monitored(url: str) -> _Config | None:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 - the stack's own, http
            return msgspec.json.decode(answer.read(), type=_Jsz).config
    except (OSError, msgspec.MsgspecError):
        return None


async def _store(board: Blackboard) -> Check:
    body = await board.session.connection.api("INFO")
    account = msgspec.json.decode(body, type=_Account)
    parts = [f"{_gib(account.storage)} used, {_gib(account.reserved_storage)} promised to streams"]
    limit = int(account.limits.get("max_storage", -1))
    if limit > 0:
        parts.append(f"of {_gib(limit)}")
        if account.reserved_storage > FULL * limit:
            return Check(
                "store", "warn", " ".join(parts), "raise the account's max_storage for more boards"
            )
    settings = board.session.settings
    if settings.url is None:
        free = shutil.disk_usage(settings.data_dir).free
        parts.append(f"({_gib(free)} free on the disk)")
        if free < FREE_BYTES:
            return Check("store", "fail", " ".join(parts), "free room on the disk of the data")
    return Check("store", "ok", " ".join(parts))


async def _all_streams(connection: Connection) -> list[StreamInfo]:
    found: list[StreamInfo] = []
    while True:
        body = await connection.api("STREAM.LIST", {"offset": len(found)})
        page = msgspec.json.decode(body, type=_Streams)
        found += page.streams
        if not page.streams or len(found) >= page.total:
            return found


def _streams(board: Blackboard, there: list[StreamInfo]) -> Iterator[Check]:
    infos = {info.name: info for info in there}
    expected = {stream.name: stream.config() for stream in streams_of(board.name, Limits())}
    # What lies in memory goes with the broker, and the agents make it again.
    kept = {name for name, config in expected.items() if config.get("storage") != "memory"}
    missing = sorted(kept - infos.keys())
    if missing:
        do = "blackboard apply makes what is missing"
        yield Check("streams", "fail", f"not there: {', '.join(missing)}", do)
    wrong = [
        text
        for name in sorted(expected.keys() & infos.keys())
        for text in _differences(name, expected[name], infos[name].config)
    ]
    if wrong:
        do = "blackboard apply sets back what can be, and says what to do about the rest"
        yield Check("streams", "fail", "; ".join(wrong), do)
    if not (missing or wrong):
        yield Check("streams", "ok", f"{len(expected)} streams, as this version makes them")
    yield _mirrors(board, there)
    for name in sorted(expected.keys() & infos.keys()):
        info = infos[name]
        limit = int(info.config.get("max_bytes", -1))
        # What discards the old may be full; what refuses the new must not be.
        if info.config.get("discard") == "new" and 0 < FULL * limit < info.state.bytes:
            text = f"{name} holds {_gib(info.state.bytes)} of {_gib(limit)}"
            do = "retire what is not needed, or raise its limit: blackboard apply --memory-bytes …"
            yield Check("room", "warn", text, do)


def _differences(name: str, expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    texts: list[str] = []
    if found.get("allow_rollup_hdrs"):
        texts.append(f"{name} allows rollup, with which any writer can wipe it")
    if found.get("allow_msg_schedules"):
        texts.append(f"{name} allows schedules, with which a writer can write as another")
    consumers_allowed = int(found.get("max_consumers", -1))
    if consumers_allowed <= 0:
        texts.append(f"{name} has no max_consumers, so the broker's default of 1,000 holds")
    for setting in COMPARED:
        want, have = expected.get(setting), found.get(setting)
        if setting == "sources":
            same = bool(want) == bool(have)
        else:
            same = (want or None) == (have or None)
        if not same:
            texts.append(f"{name} has {setting}={have!r} instead of {want!r}")
    return texts


def _mirrors(board: Blackboard, there: list[StreamInfo]) -> Check:
    memory = memory_stream(board.name)
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


async def _handlers(board: Blackboard) -> list[Check]:
    running = {card.agent for card in await list_cards(board.log)}
    found = [
        one
        for one in await consumers(board.session.connection, board.log.stream)
        if "--" in one.name
    ]
    checks = [check for one in found if (check := _handler(one, running)) is not None]
    if checks:
        return checks
    if not found:
        return [Check("handlers", "ok", "no agent has run on this board yet")]
    return [Check("handlers", "ok", f"{len(found)}, none of them left behind")]


def _handler(one: ConsumerInfo, running: set[str]) -> Check | None:
    agent, _, handler = one.name.partition("--")
    waits = one.num_pending + one.num_ack_pending
    if one.paused:
        text = f"{one.name} is paused; {waits} memories wait for it"
        return Check("handlers", "warn", text, f"blackboard agents resume {agent} {handler}")
    if agent not in running:
        text = f"{one.name} is pulled by nobody; {waits} memories wait for it"
        do = f"start the agent, or drop its place: blackboard agents remove {agent} {handler}"
        return Check("handlers", "warn", text, do)
    if one.num_pending > HISTORY_WAITS:
        text = f"{one.name} is {one.num_pending} memories behind"
        return Check("handlers", "warn", text, "run more replicas, or raise its concurrency")
    return None


async def _letters(board: Blackboard) -> Check:
    letters = await list_dead(board)
    if letters:
        text = f"{len(letters)} memories were given up on"
        return Check(
            "dead letters", "warn", text, "blackboard dead list, then blackboard dead retry"
        )
    return Check("dead letters", "ok", "none")


def _gib(count: int) -> str:
    return f"{count / (1 << 30):.2f} GiB" if count >= 1 << 27 else f"{count / (1 << 20):.1f} MiB"
