"""What a client sees of the broker itself: versions, distance, clock, rights, and the store."""

import importlib.metadata
import platform
import shutil
import time
import uuid
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from blackboard.clock import now
from blackboard.doctor.check import FULL, Check, gib
from blackboard.errors import BlackboardError, SettingsError
from blackboard.forgery import described, probe_of, try_forgeries
from blackboard.jetstream import BrokerError, Connection
from blackboard.settings import Limits, Settings
from blackboard.subjects import memory_stream, subject_matches

OLDEST_SERVER = (2, 12)
"""The first with atomic batches."""
SLOW_MS = 50.0
CLOCK_S = 1.0
FREE_BYTES = 1 << 30


class Account(msgspec.Struct):
    """What JetStream says of this client's account."""

    storage: int = 0
    reserved_storage: int = 0
    consumers: int = 0
    limits: dict[str, Any] = {}

    def limit(self, name: str) -> int:
        """A limit of the account; 0 for none."""
        return max(0, int(self.limits.get(name, -1)))


class _Rights(msgspec.Struct):
    allow: list[str] | None = None
    deny: list[str] | None = None


class _Permissions(msgspec.Struct):
    publish: _Rights | None = None


class _User(msgspec.Struct):
    user: str = ""
    permissions: _Permissions | None = None


class _UserInfo(msgspec.Struct):
    data: _User = msgspec.field(default_factory=_User)


class _Stamp(msgspec.Struct):
    ts: datetime | None = None


def client() -> Check:
    """The versions of what runs here."""
    versions = [f"Python {platform.python_version()}"]
    for name in ("blackboard-agents", "nats-py"):
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{name} from a source tree")
    return Check("client", "ok", ", ".join(versions))


def server(connection: Connection) -> Check:
    """The version of the server that this client is connected to."""
    text = f"nats-server {'.'.join(map(str, connection.version))} at {connection.url}"
    if connection.version[:2] < OLDEST_SERVER:
        wanted = ".".join(map(str, OLDEST_SERVER))
        return Check("broker", "fail", text, f"run nats-server {wanted} or later")
    return Check("broker", "ok", text)


async def jetstream(connection: Connection) -> Account | Check:
    """What the account may use; a finding when it has no JetStream, without which nothing works."""
    try:
        return msgspec.json.decode(await connection.api("INFO"), type=Account)
    except BrokerError as error:
        do = "enable JetStream for this account"
        return Check("jetstream", "fail", str(error), do)
    except BlackboardError:
        do = "give its configuration a jetstream block with a store_dir; or it is just starting"
        return Check("jetstream", "fail", "the broker serves no JetStream", do)


async def distance(connection: Connection) -> Check:
    """How long a request takes: the middle of five."""
    times: list[float] = []
    for _ in range(5):
        begun = time.perf_counter()
        await connection.api("INFO")
        times.append((time.perf_counter() - begun) * 1000)
    middle = sorted(times)[2]
    text = f"{middle:.2g} ms for a request to the broker"
    if middle > SLOW_MS:
        return Check("distance", "warn", text, "run agents near the broker, or read from a view")
    return Check("distance", "ok", text)


async def clock(connection: Connection, board: str) -> Check:
    """How far this machine's clock is from the broker's."""
    asked = now()
    body = await connection.api(f"STREAM.INFO.{memory_stream(board)}")
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


async def identity(connection: Connection, board: str) -> Check:
    """Whether the broker would stop this client from writing under another agent's name."""
    do = "use this broker among people who trust each other, or give each agent a credential"
    try:
        answer = await connection.request("$SYS.REQ.USER.INFO")
        user = msgspec.json.decode(answer.data, type=_UserInfo).data
    except (BlackboardError, msgspec.MsgspecError):
        return Check("identity", "unknown", "the broker does not tell what this client may do", do)
    somebody = uuid.uuid4().hex
    if _may_publish(user.permissions, f"mem.{board}.shared.{somebody}.docs.{somebody}"):
        who = f", {user.user!r}," if user.permissions is not None else ""
        text = f"names are taken on trust: this client{who} may write as any agent"
        return Check("identity", "warn", text, do)
    text = f"this client is {user.user!r}, and the broker lets it write as no other agent"
    return Check("identity", "ok", text)


async def forgeries(connection: Connection, credentials: Path | None, board: str) -> Check:
    """Whether the broker can be made to store a message under somebody else's name; tried."""
    try:
        forged = await try_forgeries(connection, probe_of(credentials, board), board)
    except SettingsError as error:
        text, _, do = str(error).partition("; ")
        return Check("forgeries", "unknown", text, do)
    except BlackboardError as error:
        return Check("forgeries", "unknown", f"could not be tried: {error}")
    if forged:
        text, _, do = described(forged).partition(". ")
        return Check("forgeries", "fail", text, do)
    return Check("forgeries", "ok", "none of those that were tried was stored")


def _may_publish(permissions: _Permissions | None, subject: str) -> bool:
    rights = None if permissions is None else permissions.publish
    if rights is None:
        return True
    allowed = not rights.allow or any(subject_matches(one, subject) for one in rights.allow)
    return allowed and not any(subject_matches(one, subject) for one in rights.deny or ())


def store(account: Account, settings: Settings, *, seen: bool) -> Iterator[Check]:
    """How full the account and the disk are.

    Args:
        account: What the broker says of it.
        settings: Whether the disk is one of this machine.
        seen: Whether the servers' own limits were looked at elsewhere.
    """
    text = f"{gib(account.storage)} used, {gib(account.reserved_storage)} promised to streams"
    limit = account.limit("max_storage")
    if limit and account.reserved_storage > FULL * limit:
        do = "raise the account's max_storage, or streams cannot be made for more boards"
        yield Check("store", "warn", f"{text}, of the {gib(limit)} of this account", do)
    else:
        yield Check("store", "ok", f"{text}, of {gib(limit)}" if limit else text)
    consumers = account.limit("max_consumers")
    wanted = Limits().consumers
    if 0 < consumers < wanted:
        text = f"this account may have {consumers} consumers, and boards are made for {wanted}"
        do = f"raise its max_consumers, or make boards with Limits(consumers={consumers}) or fewer"
        yield Check("consumers", "warn", text, do)
    if consumers and account.consumers > FULL * consumers:
        text = f"{account.consumers} of the {consumers} consumers that this account may have"
        do = "raise the account's max_consumers; every watcher, view and handler is one"
        yield Check("consumers", "warn", text, do)
    if settings.url is None:
        free = shutil.disk_usage(settings.data_dir).free
        state = "fail" if free < FREE_BYTES else "ok"
        do = "free room on the disk of the data" if state == "fail" else ""
        yield Check("disk", state, f"{gib(free)} free", do)
    elif not seen:
        text = "how much the servers' disks hold cannot be seen from here"
        yield Check("disk", "unknown", text, "name their monitoring: --monitor http://HOST:8222")
