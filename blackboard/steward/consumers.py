"""The consumers of agents with limited rights: made by the steward, cut down to what they may read.

An agent may create none itself: a consumer carries its filters in a body that the broker does not
hold against anybody's rights. Each is marked with its agent, and looked at again whenever rights
change: what is no longer allowed ends at once.
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
from blackboard.jetstream import BrokerError, Connection, ConsumerInfo, consumers
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
INACTIVE_S = 60
MAX_ACK_PENDING = 100_000
Body = dict[str, Any] | None
Announce = Callable[[Mapping[str, Any]], Awaitable[None]]
STARTS = ("deliver_policy", "opt_start_seq", "opt_start_time")


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
            config = await self._reader(rights, stream, name, config)
        else:
            config = self._handler(rights, stream, name, config)
        wanted = {"stream_name": stream, "config": config, "action": "create"}
        await announce(config)
        return await self._connection.api(f"CONSUMER.CREATE.{stream}.{name}", wanted)

    async def _reader(
        self, rights: Rights, stream: str, name: str, config: Mapping[str, Any]
    ) -> dict[str, Any]:
        inbox = str(config.get("deliver_subject", ""))
        if not inbox.startswith(f"{Identity(self._board, rights.agent, '').inbox}."):
            raise DeniedError(f"agent {rights.agent!r} may be sent memories at its own inbox only")
        await self._count(rights.agent, name)
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
            "metadata": {OWNER: rights.agent},
            **self._filters(rights, stream, config),
            **{key: config[key] for key in STARTS if key in config},
        }

    def _handler(
        self, rights: Rights, stream: str, name: str, config: Mapping[str, Any]
    ) -> dict[str, Any]:
        handler = self._own_handler(rights, name)
        if stream == self._dead:
            wanted = {"filter_subject": retry_subject(self._board, rights.agent, handler)}
        else:
            wanted = self._filters(rights, stream, config)
        metadata = cast("Mapping[str, str]", config.get("metadata") or {})
        return {
            "name": name,
            "durable_name": name,
            "ack_policy": "explicit",
            "ack_wait": _number(config, "ack_wait", NANOSECONDS, 24 * 3600 * NANOSECONDS),
            "max_deliver": -1,
            "max_ack_pending": _number(config, "max_ack_pending", 1, MAX_ACK_PENDING),
            "replay_policy": "instant",
            "max_waiting": MAX_WAITING,
            "num_replicas": _number(config, "num_replicas", 0, 5),
            "metadata": {**{str(k): str(v) for k, v in metadata.items()}, OWNER: rights.agent},
            **wanted,
            **{key: config[key] for key in STARTS if key in config},
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
    ) -> dict[str, str | list[str]]:
        wanted = str(config.get("filter_subject", ""))
        if stream == self._cards:
            found = filters.allowed(wanted, [f"$KV.{presence_bucket(self._board)}.>"])
        elif stream == self._memories:
            found = filters.allowed(wanted, filters.reads(rights))
        else:
            raise DeniedError(f"agent {rights.agent!r} may not follow stream {stream!r}")
        if not found:
            raise DeniedError(_unreadable(rights, wanted))
        if len(found) == 1:
            return {"filter_subject": found[0]}
        return {"filter_subjects": list(found)}

    async def _count(self, agent: str, name: str) -> None:
        readers = self._readers.setdefault(agent, set())
        if len(readers) >= MAX_READERS:
            there = await consumers(self._connection, self._memories)
            readers &= {info.name for info in there}
            if len(readers) >= MAX_READERS:
                raise TooLargeError(
                    f"agent {agent!r} reads with {MAX_READERS} watches and views already; end some"
                )
        readers.add(name)

    async def info(self, rights: Rights, rest: str) -> bytes:
        """What the broker says of one of its own consumers."""
        stream, _, name = rest.partition(".")
        if stream not in (self._memories, self._dead, self._cards) or "." in name:
            raise DeniedError(
                f"agent {rights.agent!r} may not look at {rest!r}: it is on another board"
            )
        answer = await self._connection.api(f"CONSUMER.INFO.{rest}")
        self._check_own(rights, msgspec.json.decode(answer, type=ConsumerInfo))
        return answer

    async def delete(self, rights: Rights, rest: str) -> bytes:
        """End one of its own consumers."""
        await self.info(rights, rest)
        answer = await self._connection.api(f"CONSUMER.DELETE.{rest}")
        self._readers.get(rights.agent, set()).discard(rest.rpartition(".")[2])
        return answer

    def _check_own(self, rights: Rights, info: ConsumerInfo) -> None:
        if info.metadata.get(OWNER) != rights.agent:
            raise DeniedError(
                f"agent {rights.agent!r} may not use the consumer {info.name!r}: it is another's"
            )

    async def enforce(self, rights_of: Mapping[str, Rights]) -> None:
        """Hold all consumers against the rights in force: cut them down, or end them."""
        for info in await consumers(self._connection, self._memories):
            owner = info.metadata.get(OWNER)
            if owner is None:
                continue
            rights = rights_of.get(owner)
            may = () if rights is None else filters.reads(rights)
            has = _filters_of(info)
            still = filters.widest(both for one in has for both in filters.allowed(one, may))
            handler = info.name.partition("--")[2]
            if rights is not None and handler and handler not in rights.handlers:
                still = ()
            if set(still) == set(has):
                continue
            try:
                await self._cut(info, still)
            except BlackboardError as error:
                logger.warning("cannot cut down consumer %s: %s", info.name, error)
                raise

    async def _cut(self, info: ConsumerInfo, still: tuple[str, ...]) -> None:
        logger.info("consumer %s may read %d filters", info.name, len(still))
        if not still or READER.match(info.name):
            # A reader makes it again, within what it may read now, or is told that it may not.
            await delete_consumer(self._connection, self._memories, info.name)
            return
        config = {key: value for key, value in info.config.items() if key != "filter_subject"}
        config["filter_subjects"] = list(still)
        body = {"stream_name": self._memories, "config": config, "action": "update"}
        try:
            await self._connection.api(f"CONSUMER.CREATE.{self._memories}.{info.name}", body)
        except BrokerError as error:
            if error.code != CONSUMER_MISSING:
                raise


def _config_of(body: Body) -> Mapping[str, Any]:
    config = (body or {}).get("config")
    if not isinstance(config, dict):
        raise InvalidError("a consumer needs a config")
    return cast("Mapping[str, Any]", config)


def _number(config: Mapping[str, Any], name: str, least: int, most: int) -> int:
    value = config.get(name, least)
    if type(value) is not int or not least <= value <= most:
        raise InvalidError(f"{name} must be from {least} to {most}")
    return value


def _filters_of(info: ConsumerInfo) -> tuple[str, ...]:
    one = info.config.get("filter_subject")
    return (str(one),) if one else tuple(info.config.get("filter_subjects") or ())


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
