"""Messages of a stream as the broker itself packs them: what its restore takes, record by record.

The format is that of NATS 2.15 (`server/archive`, `server/stream_backup.go`): the stream's state,
its consumers, then each message with its sequence and time, then an end mark, all of it in the
framing of Snappy. Framed pieces may be put one behind the other, so a stream can be restored from
pieces that were packed at different times, and none of them has to be unpacked for it.
"""

import struct
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType
from typing import Any, NamedTuple

import msgspec

from blackboard.errors import InvalidError, SettingsError

MAGIC = b"NATSARC1"
MAX_FIELD = 10
"""Bytes of a number of 64 bits."""


class Record(NamedTuple):
    """A message as it is stored.

    Attributes:
        subject: Where it was published.
        sequence: Its place in the stream.
        time: When it was stored, in nanoseconds since 1970.
        block: Its headers as they were sent, byte for byte; empty when it has none.
        data: Its body.
    """

    subject: str
    sequence: int
    time: int
    block: bytes
    data: bytes


class Consumed(msgspec.Struct, frozen=True):
    """A durable consumer: its settings, and how far it is.

    Attributes:
        config: As the broker has it.
        state: Under `delivered` and `ack_floor`, each with `consumer_seq` and `stream_seq`.
    """

    config: dict[str, Any]
    state: dict[str, dict[str, int]]


def pack(record: Record) -> bytes:
    """A message as the broker packs it."""
    return _entry(record.subject, record.time, record.sequence, record.block, record.data)


def unpack(body: bytes) -> Iterator[Record]:
    """The messages in what was packed.

    Raises:
        InvalidError: It is something else, or cut off.
    """
    position, end = 0, len(body)
    try:
        while position < end:
            name, position = _number(body, position)
            time, position = _number(body, position)
            sequence, position = _number(body, position)
            headers, position = _number(body, position)
            payload, position = _number(body, position)
            first = position + name
            second = first + headers
            last = second + payload
            if last > end or not sequence:
                raise InvalidError("a packed message that is cut off")
            subject = body[position:first].decode()
            yield Record(subject, sequence, _signed(time), body[first:second], body[second:last])
            position = last
    except (IndexError, UnicodeDecodeError) as error:
        raise InvalidError("no packed messages") from error


def head(first: int, last: int, consumers: list[Consumed], now: int) -> bytes:
    """What comes before the messages, squeezed.

    Args:
        first: The stream's first sequence.
        last: Its last, whether there is a message or not.
        consumers: Its durable consumers.
        now: The time, in nanoseconds.
    """
    state: dict[str, object] = {
        "messages": 0,  # these two the broker finds out by itself
        "bytes": 0,
        "first_seq": first,
        "first_ts": "1970-01-01T00:00:00Z",
        "last_seq": last,
        "last_ts": "1970-01-01T00:00:00Z",
        "consumer_count": len(consumers),
    }
    parts = [MAGIC, _entry("state.json", now, 0, b"", msgspec.json.encode(state))]
    for consumer in consumers:
        name = f"consumers/{consumer.config['name']}"
        parts.append(_entry(name, now, 0, b"", msgspec.json.encode(consumer)))
    return squeeze(b"".join(parts))


def tail() -> bytes:
    """What comes after the messages, squeezed: the sign that nothing is cut off."""
    return squeeze(_entry("", 0, 0, b"", b""))


def squeeze(body: bytes) -> bytes:
    """Compress what was packed, in Snappy's framing with its checksums."""
    return bytes(_library().snappy.compress(body))


def expand(body: bytes) -> bytes:
    """What was squeezed.

    Raises:
        InvalidError: It is something else, or damaged.
    """
    library = _library()
    try:
        return bytes(library.snappy.decompress(body))
    except library.DecompressionError as error:
        raise InvalidError(f"no packed messages: {error}") from error


def _library() -> ModuleType:
    """The one place that needs this library, which all the rest does without."""
    try:
        return import_module("cramjam")
    except ImportError as error:
        raise SettingsError(
            "backups need the package `cramjam`: pip install 'blackboard-agents[backup]'"
        ) from error


def _entry(name: str, time: int, sequence: int, block: bytes, data: bytes) -> bytes:
    title = name.encode()
    return b"".join(
        (
            _varint(len(title)),
            _varint(time << 1 if time >= 0 else (-time << 1) - 1),
            _varint(sequence),
            _varint(len(block)),
            _varint(len(data)),
            title,
            block,
            data,
        )
    )


def _varint(number: int) -> bytes:
    if number < 0x80:
        return _SMALL[number]
    found = bytearray()
    while number >= 0x80:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)


def _number(body: bytes, position: int) -> tuple[int, int]:
    byte = body[position]
    if byte < 0x80:
        return byte, position + 1
    found, shift = byte & 0x7F, 7
    for place in range(position + 1, position + MAX_FIELD):
        byte = body[place]
        found |= (byte & 0x7F) << shift
        if byte < 0x80:
            return found, place + 1
        shift += 7
    raise InvalidError("a packed message with a number of more than 64 bits")


def _signed(number: int) -> int:
    return number >> 1 if not number & 1 else -((number + 1) >> 1)


_SMALL = [struct.pack("B", number) for number in range(0x80)]
