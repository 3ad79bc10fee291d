"""Durable consumers: the broker's memory of how far a handler has come."""

from datetime import datetime
from typing import Any

import msgspec

from blackboard.jetstream.connection import Connection
from blackboard.jetstream.errors import CONSUMER_EXISTS, CONSUMER_MISSING, BrokerError
from blackboard.jetstream.message import rfc3339
from blackboard.jetstream.stream import NANOSECONDS

MAX_WAITING = 65_536
"""Open requests over all replicas; the broker refuses more."""
ASKED = "blackboard-filter"
"""In a consumer's metadata: the filter that was asked for, where it got another."""


class Start(msgspec.Struct, frozen=True):
    """Where reading begins."""

    policy: str = "new"
    sequence: int | None = None
    time: datetime | None = None

    @classmethod
    def now(cls) -> "Start":
        """With what is stored from now on."""
        return cls("new")

    @classmethod
    def all(cls) -> "Start":
        """With the first message that is still there."""
        return cls("all")

    @classmethod
    def newest(cls) -> "Start":
        """With the newest message of each subject, then what is stored from now on."""
        return cls("last_per_subject")

    @classmethod
    def after(cls, sequence: int) -> "Start":
        """With the first message behind a sequence."""
        return cls("by_start_sequence", sequence + 1)

    @classmethod
    def at(cls, time: datetime) -> "Start":
        """With the first message stored at or after a time."""
        return cls("by_start_time", None, time)

    def config(self) -> dict[str, Any]:
        """The consumer settings that say so."""
        config: dict[str, Any] = {"deliver_policy": self.policy}
        if self.sequence is not None:
            config["opt_start_seq"] = self.sequence
        if self.time is not None:
            config["opt_start_time"] = rfc3339(self.time)
        return config


class _Delivered(msgspec.Struct):
    consumer_seq: int = 0
    stream_seq: int = 0


class ConsumerInfo(msgspec.Struct):
    """A consumer's settings and how far it is."""

    name: str
    config: dict[str, Any] = {}
    delivered: _Delivered = msgspec.field(default_factory=_Delivered)
    ack_floor: _Delivered = msgspec.field(default_factory=_Delivered)
    num_pending: int = 0
    num_ack_pending: int = 0
    num_redelivered: int = 0
    num_waiting: int = 0
    paused: bool = False
    pause_remaining: int = 0
    ts: datetime | None = None
    """The broker's time of saying so."""
    cluster: dict[str, Any] = {}

    @property
    def metadata(self) -> dict[str, str]:
        """What we noted on it when we made it."""
        return self.config.get("metadata") or {}

    @property
    def filter(self) -> str:
        """What its maker asked for; it selects less where its agent may not read all of that."""
        return self.metadata.get(ASKED) or str(self.config.get("filter_subject", ""))

    @property
    def clustered(self) -> bool:
        """Whether it lies on one of several servers, so that others may know more."""
        return bool(self.cluster.get("name"))


class _Page(msgspec.Struct):
    total: int = 0
    consumers: list[ConsumerInfo] | None = None


class Durable:
    """One durable pull consumer, shared by every replica of a handler.

    A replica creates it when it is absent and never changes it: a shared consumer that an old
    replica sets back loses messages without a word.
    """

    def __init__(self, connection: Connection, stream: str, name: str) -> None:
        self.connection = connection
        self.stream = stream
        self.name = name

    async def info(self) -> ConsumerInfo | None:
        """What the broker says of it; None when it is absent."""
        try:
            answer = await self.connection.api(f"CONSUMER.INFO.{self.stream}.{self.name}")
        except BrokerError as error:
            if error.code == CONSUMER_MISSING:
                return None
            raise
        return msgspec.json.decode(answer, type=ConsumerInfo)

    async def create(
        self,
        subject: str,
        start: Start,
        *,
        ack_wait_s: float,
        max_ack_pending: int,
        metadata: dict[str, str],
        replicas: int = 0,
    ) -> bool:
        """Create it; False when somebody else did first.

        Args:
            subject: The one filter.
            start: Where it begins.
            ack_wait_s: Seconds until an unacknowledged message is delivered again.
            max_ack_pending: Messages in hand over all replicas.
            metadata: Noted on it; names that do not begin with `_nats`.
            replicas: 0 inherits the stream's.
        """
        config = {
            "name": self.name,
            "durable_name": self.name,
            "filter_subject": subject,
            "ack_policy": "explicit",
            "ack_wait": int(ack_wait_s * NANOSECONDS),
            "max_deliver": -1,
            "max_ack_pending": max_ack_pending,
            "replay_policy": "instant",
            "max_waiting": MAX_WAITING,
            "num_replicas": replicas,
            "metadata": metadata,
            **start.config(),
        }
        body = {"stream_name": self.stream, "config": config, "action": "create"}
        try:
            await self.connection.api(f"CONSUMER.CREATE.{self.stream}.{self.name}.{subject}", body)
        except BrokerError as error:
            if error.code in CONSUMER_EXISTS:
                return False
            raise
        return True

    async def delete(self) -> None:
        """Delete it; it is no error when it is absent."""
        await delete_consumer(self.connection, self.stream, self.name)

    async def pause(self, until: datetime | None) -> None:
        """Deliver nothing until a time; None delivers again at once.

        Raises:
            BrokerError: It is absent.
        """
        body = {"pause_until": rfc3339(until)} if until is not None else {}
        await self.connection.api(f"CONSUMER.PAUSE.{self.stream}.{self.name}", body)
        if until is None:
            # The broker looks at the requests that wait when one more comes, else seconds later.
            # Nobody listens for the answer to this one, so it gets nothing.
            nobody = self.connection.client.new_inbox()
            subject = f"$JS.API.CONSUMER.MSG.NEXT.{self.stream}.{self.name}"
            await self.connection.client.publish(subject, b'{"no_wait": true}', reply=nobody)


async def delete_consumer(connection: Connection, stream: str, name: str) -> None:
    """Delete a consumer; it is no error when it is absent."""
    try:
        await connection.api(f"CONSUMER.DELETE.{stream}.{name}")
    except BrokerError as error:
        if error.code != CONSUMER_MISSING:
            raise


async def consumers(connection: Connection, stream: str) -> list[ConsumerInfo]:
    """All consumers of a stream, durable or not."""
    found: list[ConsumerInfo] = []
    while True:
        answer = await connection.api(f"CONSUMER.LIST.{stream}", {"offset": len(found)})
        page = msgspec.json.decode(answer, type=_Page)
        found += page.consumers or []
        if not page.consumers or len(found) >= page.total:
            return found
