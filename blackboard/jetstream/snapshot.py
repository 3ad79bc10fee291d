"""A whole stream, read as it is and restored as it was: sequences, times, headers byte for byte.

Reading goes through a consumer, as all reading here does, and not through the broker's own
snapshot: that tells how far consumers are only after it has fixed which messages it takes, so that
a handler's acknowledgement may be in it and what the handler made is not. Here consumers are looked
at first. Restoring takes the broker's own way, the only one that keeps times and sequences.
"""

from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

import anyio
import msgspec
from nats.aio.msg import Msg

from blackboard.errors import SettingsError, UnavailableError
from blackboard.jetstream.client import Headers, Reader
from blackboard.jetstream.connection import Connection
from blackboard.jetstream.consumer import ConsumerInfo, Start, consumers
from blackboard.jetstream.errors import NoStreamError
from blackboard.jetstream.follower import Follower, follow
from blackboard.jetstream.message import Message
from blackboard.jetstream.packed import Consumed, Record, head, tail

CHUNK = 512 * 1024
"""Of what is sent at once; the broker takes 1 MiB."""
CHUNK_S = 30.0
"""How long the broker may take for one chunk; when it gets none for 5 s, it gives up by itself."""
END_S = 120.0
FIND_TRIES, FIND_PAUSE_S = 40, 0.05
LEAST_VERSION = (2, 15, 0)
"""The first that reads what we pack."""


@dataclass(slots=True)
class _Exact(Message):
    time: int = 0


class _Exactly(Follower):
    """Follows a stream, with times to the nanosecond."""

    @staticmethod
    def parse(msg: Msg) -> tuple[Message, int, str]:
        message, number, consumer = Follower.parse(msg)
        exact = _Exact(
            message.subject,
            message.headers,
            message.data,
            message.sequence,
            message.stored,
            message.delivery,
            message.pending,
            int(msg.reply.split(".")[7]),
        )
        return exact, number, consumer


class _Restoring(msgspec.Struct):
    deliver_subject: str


async def records(
    connection: Connection, stream: str, last: int, *, subject: str = ">"
) -> AsyncGenerator[Record]:
    """All messages of a stream up to a sequence, each exactly as it is stored.

    What is deleted or expires while this goes on may be there or not.

    Args:
        connection: Read by nobody else at the same time.
        stream: The stream's name.
        last: The last sequence that is wanted.
        subject: A filter.

    Raises:
        NoStreamError: The stream does not exist.
        UnavailableError: The broker does not answer at the beginning; later it is waited for.
    """
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(_blocks_kept(connection))
        follower = await stack.enter_async_context(
            follow(connection, stream, subject, Start.all(), kind=_Exactly)
        )
        while follower.pending:
            message = await follower.step()
            if message is None:
                continue
            if message.sequence > last:
                return
            if isinstance(message, _Exact):
                headers = message.headers
                block = headers.block if isinstance(headers, Headers) else b""
                yield Record(message.subject, message.sequence, message.time, block, message.data)


@asynccontextmanager
async def _blocks_kept(connection: Connection) -> AsyncGenerator[None]:
    client = connection.client
    if not isinstance(client, Reader):
        raise TypeError("every connection has a reader")
    before, client.keeps_blocks = client.keeps_blocks, True
    try:
        yield
    finally:
        client.keeps_blocks = before


async def consumed(connection: Connection, stream: str) -> tuple[Consumed, ...]:
    """The durable consumers of a stream, and how far each is.

    Which messages one has in hand is not told. Where it has some, it counts as no further than what
    was acknowledged without a gap: what comes again is a repetition, what does not come is a loss.

    Raises:
        UnavailableError: The broker does not answer.
    """
    found = [one for one in await consumers(connection, stream) if one.config.get("durable_name")]
    return tuple(_consumed(one) for one in sorted(found, key=lambda one: one.name))


def _consumed(info: ConsumerInfo) -> Consumed:
    floor = msgspec.to_builtins(info.ack_floor)
    reached = floor if info.num_ack_pending else msgspec.to_builtins(info.delivered)
    return Consumed({**info.config, "name": info.name}, {"delivered": reached, "ack_floor": floor})


def check_version(connection: Connection) -> None:
    """Refuse a broker that cannot restore what we pack.

    Raises:
        SettingsError: It is too old.
    """
    if connection.version < LEAST_VERSION:
        have, least = (".".join(map(str, one)) for one in (connection.version, LEAST_VERSION))
        raise SettingsError(f"the broker is of version {have}; a restore needs {least} or newer")


async def restore(
    connection: Connection,
    config: Mapping[str, Any],
    consumers: Iterable[Consumed],
    span: tuple[int, int],
    pieces: Iterable[bytes],
    now: int,
) -> None:
    """Make a stream from what was packed.

    When this fails or is ended in the middle, the broker may keep a part of the stream; delete that
    and begin again.

    Args:
        connection: With the right to restore.
        config: The stream's settings.
        consumers: Its durable consumers.
        span: Its first sequence, and its last, whether there is a message or not.
        pieces: Packed and squeezed messages, in order.
        now: The time, in nanoseconds.

    Raises:
        BrokerError: The broker refuses, or the stream is there already.
        BoardFullError: The broker has no room.
        UnavailableError: The broker does not answer.
    """
    name = str(config["name"])
    first, last = span
    body = {"config": config, "state": {"first_seq": first, "last_seq": last, "messages": 0}}
    answer = await connection.api(f"STREAM.RESTORE.{name}", body)
    subject = msgspec.json.decode(answer, type=_Restoring).deliver_subject
    what = f"the restore of {name}"

    async def send(piece: bytes) -> None:
        for place in range(0, len(piece), CHUNK):
            said = await connection.request(
                subject, piece[place : place + CHUNK], timeout_s=CHUNK_S
            )
            if said.data:
                connection.check_answer(said.data, what)

    beginning = head(first, last, list(consumers), now)
    for _ in range(FIND_TRIES):
        # Of several servers, ours may hear a little later where another one listens.
        with suppress(NoStreamError):
            await send(beginning)
            break
        await anyio.sleep(FIND_PAUSE_S)
    else:
        raise UnavailableError(f"no server takes {what}; run it again")
    for piece in pieces:
        await send(piece)
    await send(tail())
    done = await connection.request(subject, timeout_s=END_S)
    connection.check_answer(done.data, what)
