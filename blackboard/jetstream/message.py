"""One message, as stored or as about to be."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class Message:
    """A message read from a stream.

    Attributes:
        subject: Where it was published.
        headers: As stored; on direct gets the broker adds its own `Nats-*` to them.
        data: The body.
        sequence: Its place in the stream, from 1.
        stored: The broker's time of storing.
        delivery: How often a consumer delivered it, from 1; 0 when it was got directly.
        pending: How many more the consumer has for us; 0 when it was got directly.
    """

    subject: str
    headers: Mapping[str, str]
    data: bytes
    sequence: int
    stored: datetime
    delivery: int = 0
    pending: int = 0


@dataclass(slots=True)
class Outgoing:
    """A message to publish; `headers` carry what the broker shall check."""

    subject: str
    data: bytes
    headers: dict[str, str] = field(default_factory=dict[str, str])


def from_nanoseconds(ns: int) -> datetime:
    """The broker's clock as a time; nanoseconds below a microsecond are cut off."""
    return EPOCH + timedelta(microseconds=ns // 1000)


def rfc3339(moment: datetime) -> str:
    """A time as the broker and the wire have it: UTC, six digits."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def read_headers(block: bytes) -> dict[str, str]:
    """Read the header block of a stored message: a status line, then one header a line."""
    headers: dict[str, str] = {}
    for line in block.decode(errors="replace").split("\r\n")[1:]:
        name, colon, value = line.partition(":")
        if colon:
            headers[name.strip()] = value.strip()
    return headers


def write_headers(headers: Mapping[str, str]) -> bytes:
    """The header block of a message, as clients send it."""
    lines = [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join(["NATS/1.0", *lines, "", ""]).encode()
