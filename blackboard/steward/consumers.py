"""The consumers of agents with limited rights: made by the steward, cut down to what they may read.

An agent may create none itself: a consumer carries its filters in a body that the broker does not
hold against anybody's rights. Each is marked with its agent and with what was asked for, and looked
at again whenever rights change: what is no longer allowed ends at once, and what is allowed again
comes again.
"""

import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast

import msgspec

from blackboard.access import filters
from blackboard.access.identity import Identity
from blackboard.access.rights import Rights
from blackboard.errors import BlackboardError, DeniedError, InvalidError, TooLargeError
from blackboard.jetstream import (
    ASKED,
    BrokerError,
    Connection,
    ConsumerInfo,
    NoStreamError,
    consumers,
)
from blackboard.jetstream.consumer import MAX_WAITING, delete_consumer
from blackboard.jetstream.errors import CONSUMER_MISSING
from blackboard.jetstream.stream import NANOSECONDS
from blackboard.subjects import dead_stream, memory_stream, presence_bucket, retry_subject

logger = logging.getLogger(__name__)

OWNER = "blackboard-agent"
"""In a consumer's metadata: whose it is."""
MAX_READERS = 1_000
"""Watches, views and scans of one agent at once, over all its processes."""
READER = re.compile(r"follow-[0-9a-f]{32}\Z")
NAME = re.compile(r"[A-Za-z0-9_-]{1,200}\Z")
INBOX = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\Z")
INACTIVE_S = 60
LEAST_WAIT = NANOSECONDS // 10
"""Until a delivery is repeated: what is not acknowledged in less is only delivered more often."""
MAX_ACK_PENDING = 100_000
MAX_NOTES = 16
MAX_NOTE = 1024
Body = dict[str, Any] | None
POLICIES = {
    "all": (),
    "new": (),
    "last_per_subject": (),
    "by_start_sequence": ("opt_start_seq",),
    "by_start_time": ("opt_start_time",),
}
"""Where a consumer may begin, and the setting that belongs to it."""
Announce = Callable[[Mapping[str, Any]], Awaitable[None]]


class Consumers:
    """Makes and ends the consumers of one board's agents."""

    def __init__(self, connection: Connection, board: str) -> None:
        self._connection = connection
        self._board = board
        self._memories = memory_stream(board)
        self._dead = dead_stream(board)
        self._cards = f"KV_{presence_bucket(board)}"
        self._readers: dict[str, set[str]] = {}

    async def create(self, rights: Rights, rest: str, body: Body, announce: Announce) -> bytes:
        """Make a consumer; returns the broker's answer.

        Args:
            rights: Of the agent that asks for it.
            rest: Stream and name, as in the subject of the request.
            body: Of the request.
            announce: Awaited with the settings that it gets before it is made; it may refuse.

        Raises:
            DeniedError: It would read what its agent may not, or is not its own.
            InvalidError: It is none that this library makes.
        """
        stream, _, tail = rest.partition(".")
        name = tail.partition(".")[0]
        config = _config_of(body)
        if READER.match(name):
            config = self._reader(rights, stream, name, config)
            await self._count(rights.agent, name)
        else:
            config = self._handler(rights, stream, name, config)
        wanted = {"stream_name": stream, "config": config, "action": "create"}
        await announce(config)
        return await self._connection.api(f"CONSUMER.CREATE.{stream}.{name}", wanted)

    def _reader(
        self, rights: Rights, stream: str, name: str, config: Mapping[str, Any]
    ) -> dict[str, Any]:
        inbox = str(config.get("deliver_subject", ""))
        own = f"{Identity(self._board, rights.agent, '').inbox}."
        if not inbox.startswith(own) or not INBOX.match(inbox):
            raise DeniedError(f"agent {rights.agent!r} may be sent memories at its own inbox only")
        wanted, found = self._filters(rights, stream, config)
        return {
            "name": name,
            "deliver_subject": inbox,
            "ack_policy": "none",
            "max_deliver": 1,
            "replay_policy": "instant",
            "flow_control": True,
            "idle_heartbeat": 5 * NANOSECONDS,
            "inactive_threshold": INACTIVE_S * NANOSECONDS,
            "num_replicas": 1,
            "mem_storage": True,
            "headers_only": config.get("headers_only") is True,
            "metadata": {OWNER: rights.agent, ASKED: wanted},
            **_selected(found),
            **_start(config),
        }

    def _handler(
        self, rights: Rights, stream: str, name: str, config: Mapping[str, Any]
    ) -> dict[str, Any]:
        handler = self._own_handler(rights, name)
        if stream == self._dead:
            wanted = retry_subject(self._board, rights.agent, handler)
            found = (wanted,)
        elif stream == self._memories:
            wanted, found = self._filters(rights, stream, config)
        else:
            raise DeniedError(f"agent {rights.agent!r} has no handlers on stream {stream!r}")
        return {
            "name": name,
            "durable_name": name,
            "ack_policy": "explicit",
            "ack_wait": _number(config, "ack_wait", LEAST_WAIT, 24 * 3600 * NANOSECONDS),
            "max_deliver": -1,
            "max_ack_pending": _number(config, "max_ack_pending", 1, MAX_ACK_PENDING),
            "replay_policy": "instant",
            "max_waiting": MAX_WAITING,
            "num_replicas": _number(config, "num_replicas", 0, 5),
            "metadata": {**_notes(config), OWNER: rights.agent, ASKED: wanted},
            **_selected(found),
            **_start(config),
        }

    def _own_handler(self, rights: Rights, name: str) -> str:
        agent, _, handler = name.partition("--")
        if agent != rights.agent or handler not in rights.handlers:
            raise DeniedError(
                f"agent {rights.agent!r} may not use the consumer {name!r}; name its handlers in "
                "the access policy: handlers = [...]"
            )
        return handler

    def _filters(
        self, rights: Rights, stream: str, config: Mapping[str, Any]
    ) -> tuple[str, tuple[str, ...]]:
        """What was asked for, and what of it the consumer gets."""
        wanted = config.get("filter_subject")
        if not isinstance(wanted, str) or not wanted or "filter_subjects" in config:
            raise InvalidError("a consumer needs one filter_subject")
        if stream == self._cards:
            found = filters.allowed(wanted, [f"$KV.{presence_bucket(self._board)}.>"])
        elif stream == self._memories:
            found = _readable(rights, wanted)
        else:
            raise DeniedError(f"agent {rights.agent!r} may not follow stream {stream!r}")
        if not found:
            raise DeniedError(_unreadable(rights, wanted))
        return wanted, found

    async def _count(self, agent: str, name: str) -> None:
        readers = self._readers.setdefault(agent, set())
        if len(readers) >= MAX_READERS:
            readers &= {info.name for info in await self._all(self._memories, self._cards)}
            if len(readers) >= MAX_READERS:
                raise TooLargeError(
                    f"agent {agent!r} reads with {MAX_READERS} watches and views already; end some"
                )
        readers.add(name)

    async def _all(self, *streams: str) -> list[ConsumerInfo]:
        found: list[ConsumerInfo] = []
        for stream in streams:
            try:
                found += await consumers(self._connection, stream)
            except NoStreamError:
                continue  # of the cards: the broker restarted, and no agent has shown one since
        return found

    async def info(self, rights: Rights, rest: str) -> bytes:
        """What the broker says of one of its own consumers.

        Raises:
            DeniedError: It is another's.
        """
        stream, _, name = rest.partition(".")
        if stream not in (self._memories, self._dead, self._cards) or not NAME.match(name):
            raise DeniedError(f"agent {rights.agent!r} may not use the consumer {rest!r}")
        if not READER.match(name) and name.partition("--")[0] != rights.agent:
            raise _foreign(rights, name)  # whether it is there or not
        answer = await self._connection.api(f"CONSUMER.INFO.{stream}.{name}")
        self._check_own(rights, msgspec.json.decode(answer, type=ConsumerInfo))
        return answer

    async def delete(self, rights: Rights, rest: str) -> tuple[bytes, int]:
        """End one of its own consumers; gives the broker's answer, and how far it had delivered.

        Raises:
            DeniedError: It is another's.
        """
        info = msgspec.json.decode(await self.info(rights, rest), type=ConsumerInfo)
        answer = await self._connection.api(f"CONSUMER.DELETE.{rest}")
        self._readers.get(rights.agent, set()).discard(rest.rpartition(".")[2])
        return answer, info.delivered.stream_seq

    def _check_own(self, rights: Rights, info: ConsumerInfo) -> None:
        if self._owner(info) != rights.agent:
            raise _foreign(rights, info.name)

    def _owner(self, info: ConsumerInfo) -> str | None:
        """Whose a consumer is; also of one that was made before the board had credentials."""
        noted = info.metadata.get(OWNER)
        if noted is not None:
            return noted
        agent, dashes, _ = info.name.partition("--")
        if dashes:
            return agent
        parts = str(info.config.get("deliver_subject", "")).split(".")
        return parts[2] if parts[:2] == ["_INBOX", self._board] and len(parts) > 3 else None

    async def enforce(self, rights_of: Mapping[str, Rights]) -> None:
        """Hold all consumers against the rights in force: cut them down, or end them.

        Raises:
            BlackboardError: One could not be cut; the others were.
        """
        failure: BlackboardError | None = None
        self._readers = {}
        for stream in (self._memories, self._dead, self._cards):
            for info in await self._all(stream):
                owner = self._owner(info)
                if owner is None:
                    continue
                if READER.match(info.name):
                    self._readers.setdefault(owner, set()).add(info.name)
                try:
                    await self._hold(stream, info, rights_of.get(owner))
                except BlackboardError as error:
                    logger.warning("cannot cut down consumer %s: %s", info.name, error)
                    failure = error
        if failure is not None:
            raise failure

    async def _hold(self, stream: str, info: ConsumerInfo, rights: Rights | None) -> None:
        has = _filters_of(info)
        still = () if rights is None else self._still(stream, info, rights)
        if set(still) == set(has):
            return
        logger.info("consumer %s now has %d filters", info.name, len(still))
        if not still:
            # Who reads with it makes it again, and is told that it may not.
            await delete_consumer(self._connection, stream, info.name)
            return
        config = {k: v for k, v in info.config.items() if not k.startswith("filter_subject")}
        config["metadata"] = {**info.metadata, ASKED: info.filter or ">"}
        config |= _selected(still)
        body = {"stream_name": stream, "config": config, "action": "update"}
        try:
            await self._connection.api(f"CONSUMER.CREATE.{stream}.{info.name}", body)
        except BrokerError as error:
            if error.code != CONSUMER_MISSING:
                raise

    def _still(self, stream: str, info: ConsumerInfo, rights: Rights) -> tuple[str, ...]:
        """What a consumer may select now of what was asked for."""
        _, dashes, handler = info.name.partition("--")
        if dashes and handler not in rights.handlers:
            return ()
        wanted = info.filter or ">"
        if stream == self._cards:
            return _filters_of(info)
        if stream == self._dead:
            return filters.allowed(wanted, [retry_subject(self._board, rights.agent, handler)])
        return _readable(rights, wanted)


def _foreign(rights: Rights, name: str) -> DeniedError:
    return DeniedError(f"agent {rights.agent!r} may not use the consumer {name!r}: it is another's")


def _readable(rights: Rights, wanted: str) -> tuple[str, ...]:
    return filters.separate(filters.allowed(wanted, filters.reads(rights)))


def _selected(found: tuple[str, ...]) -> dict[str, str | list[str]]:
    return {"filter_subject": found[0]} if len(found) == 1 else {"filter_subjects": list(found)}


def _config_of(body: Body) -> Mapping[str, Any]:
    config = (body or {}).get("config")
    if not isinstance(config, dict):
        raise InvalidError("a consumer needs a config")
    return cast("Mapping[str, Any]", config)


def _start(config: Mapping[str, Any]) -> dict[str, Any]:
    policy = config.get("deliver_policy", "all")
    if not isinstance(policy, str) or policy not in POLICIES:
        raise InvalidError(f"deliver_policy must be one of {', '.join(POLICIES)}")
    start: dict[str, Any] = {"deliver_policy": policy}
    for name in POLICIES[policy]:
        value = config.get(name)
        if not (isinstance(value, str) if name == "opt_start_time" else type(value) is int):
            raise InvalidError(f"{policy} needs {name}")
        start[name] = value
    return start


def _notes(config: Mapping[str, Any]) -> dict[str, str]:
    """What its maker notes on a consumer, for itself."""
    found: object = config.get("metadata") or {}
    notes = cast("dict[str, Any]", found) if isinstance(found, dict) else None
    if notes is None or len(notes) > MAX_NOTES:
        raise InvalidError(f"metadata must be an object of at most {MAX_NOTES} strings")
    for name, value in notes.items():
        if not isinstance(value, str) or len(name) + len(value) > MAX_NOTE or name[:1] == "_":
            raise InvalidError(f"metadata {name!r} must be a string of at most {MAX_NOTE} bytes")
    return notes


def _number(config: Mapping[str, Any], name: str, least: int, most: int) -> int:
    value = config.get(name, least)
    if type(value) is not int or not least <= value <= most:
        raise InvalidError(f"{name} must be from {least} to {most}")
    return value


def _filters_of(info: ConsumerInfo) -> tuple[str, ...]:
    """What it selects; without a filter that is everything."""
    one = info.config.get("filter_subject") or ">"
    return tuple(info.config.get("filter_subjects") or (str(one),))


def _unreadable(rights: Rights, subject: str) -> str:
    parts = subject.split(".")
    pattern = ".".join(parts[4:])
    pattern = pattern.removesuffix(".*")
    if filters.allowed(subject, (one for one, _ in filters.served(rights))):
        return (
            f"agent {rights.agent!r} may read {pattern!r} on board {rights.board!r} for single "
            "users only, which the broker cannot tell apart in a stream; give each user a label "
            'of its own in the access policy (labels = ["...{user}"]) to watch it'
        )
    return (
        f"agent {rights.agent!r} may not read {pattern!r} on board {rights.board!r}: it has no "
        "such right; add a read right to its roles in the access policy"
    )
