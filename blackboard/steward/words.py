"""What is said at the steward's gate: the words of the JetStream API, read and written.

What is asked is checked here as far as it can be without knowing who asks.
"""

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

import msgspec

from blackboard.codec import read
from blackboard.errors import InvalidError
from blackboard.jetstream import Message
from blackboard.records import ServedMessage

Body = dict[str, Any] | None
SUBJECT = re.compile(r"[\x21-\x7e]{1,1200}\Z")
"""What may go into a subject: a longer one would have the broker end the steward's connection."""
SERVED_BYTES = 768 * 1024
"""Of the messages in one answer; the broker carries 1 MiB."""


def checked_subject(subject: str) -> str:
    """Return what can be a part of a subject.

    Raises:
        InvalidError: It cannot.
    """
    if not SUBJECT.match(subject):
        raise InvalidError(f"no subject: {subject[:64]!r}, of {len(subject)} characters")
    return subject


class Wanted(msgspec.Struct, frozen=True):
    """Which message is asked for."""

    seq: Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)] = 0
    last_by_subj: str | None = None
    next_by_subj: str | None = None
    multi_last: tuple[str, ...] = ()
    up_to_time: datetime | None = None
    batch: int = 0

    @classmethod
    def read(cls, body: Body) -> "Wanted":
        """Read a request's body.

        Raises:
            InvalidError: It asks for something else.
        """
        try:
            wanted = read(_read_wanted, msgspec.json.encode(body or {}))
        except OverflowError as error:
            raise InvalidError("a number of more than 64 bits") from error
        for subject in (wanted.last_by_subj, wanted.next_by_subj, *wanted.multi_last):
            if subject is not None:
                checked_subject(subject)
        return wanted


_read_wanted = msgspec.json.Decoder(Wanted)


class Names(msgspec.Struct):
    """The answer to a question for the streams there are."""

    total: int
    streams: tuple[str, ...]


class Failure(msgspec.Struct):
    """Why the broker refused, in its own numbers."""

    code: int
    err_code: int
    description: str


class Refusal(msgspec.Struct):
    """The answer to what the broker refused."""

    error: Failure


def without_secrets(answer: bytes) -> bytes:
    """A stream's state without the counts of others' subjects and consumers."""
    info = msgspec.json.decode(answer)
    kept = ("messages", "bytes", "first_seq", "last_seq", "subjects")
    state = info.get("state", {})
    info["state"] = {name: state[name] for name in kept if name in state}
    return msgspec.json.encode(info)


def served(message: Message) -> ServedMessage:
    """A message as an agent gets it."""
    return ServedMessage(
        message.subject, message.sequence, message.stored, dict(message.headers), message.data
    )


def stored(message: Message) -> dict[str, Any]:
    """A message as the API of a stream's leader shows it, which adds no headers."""
    added = ("Nats-Stream", "Nats-Subject", "Nats-Sequence", "Nats-Time-Stamp")
    lines = [f"{name}: {value}" for name, value in message.headers.items() if name not in added]
    block = "\r\n".join(["NATS/1.0", *lines, "", ""]) if lines else ""
    return {
        "subject": message.subject,
        "seq": message.sequence,
        "time": message.stored,
        "hdrs": block.encode(),
        "data": message.data,
    }


def check_size(messages: Sequence[Message]) -> None:
    """Refuse what is too much for one answer: less would be taken for everything.

    Raises:
        InvalidError: It is.
    """
    size = sum(len(one.data) + 512 for one in messages)
    if size > SERVED_BYTES:
        raise InvalidError(
            f"{len(messages)} messages of {size} bytes do not fit into one answer; ask for less"
        )
