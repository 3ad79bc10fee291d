"""What a backup says of itself, and how that is read without trusting it.

Names of files come from here and never from what is read: a block is called by the digest of its
bytes, a stream has to be one of the board's, and what a stream is made with at a restore comes from
the layout of boards, of which a backup only knows the sizes.
"""

import hashlib
import re
from collections.abc import Iterable
from datetime import datetime
from typing import Any

import msgspec

from blackboard.access.identity import PREFIX
from blackboard.codec import read
from blackboard.errors import InvalidError
from blackboard.jetstream.packed import Consumed
from blackboard.layout import streams_of
from blackboard.ledger.streams import ledger_stream, reads_stream
from blackboard.settings import Limits
from blackboard.subjects import (
    audit_stream,
    blob_stream,
    check_token,
    dead_stream,
    memory_stream,
    presence_bucket,
    spans_stream,
    state_bucket,
)

FORMAT = 1
DIGEST = re.compile(r"[0-9a-f]{64}\Z")
CONSUMER = re.compile(r"[A-Za-z0-9_-]{1,200}\Z")
MAX_SEQUENCE = (1 << 63) - 1
MAX_BLOCK = 16 * 1024 * 1024
"""Of a block's file; what is above was not written by us."""
OWN = "blackboard-"
"""What we note in a stream's metadata begins so."""


class Block(msgspec.Struct, frozen=True):
    """A file of packed messages.

    Attributes:
        name: SHA-256 of the file.
        first: The sequence of its first message.
        last: Of its last.
        messages: How many.
        size: Of the file.
        bytes: When it is unpacked.
    """

    name: str
    first: int
    last: int
    messages: int
    size: int
    bytes: int


class Filed(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One stream in a backup.

    Attributes:
        name: The stream's name.
        created: When it was made, which tells it from another of that name.
        config: As the broker had it.
        reach: The sequence up to which it was read.
        last: The sequence that a restored one goes on behind; never less.
        messages: How many there were.
        consumers: The durable ones.
        blocks: In order.
        altered: Something was forgotten in it since.
    """

    name: str
    created: str
    config: dict[str, Any]
    reach: int
    last: int
    messages: int
    consumers: tuple[Consumed, ...] = ()
    blocks: tuple[Block, ...] = ()
    altered: bool = False

    @property
    def first(self) -> int:
        """The stream's first sequence."""
        return self.blocks[0].first if self.blocks else self.last + 1


class Backup(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A board as it was at one time.

    Attributes:
        format: Of the files.
        number: Counted from 1 in its directory.
        board: Its name.
        created: When its stream was made.
        lives: When those were made that it goes on from, by being restored.
        at: When the backup began.
        last: The revision of the board that it reaches to.
        key: The board's public key, where one was seen.
        streams: In the order in which they were read.
        forgotten: The orders to forget that are carried out in it.
    """

    format: int = FORMAT
    number: int
    board: str
    created: str
    lives: tuple[str, ...] = ()
    at: datetime
    last: int
    key: str | None = None
    streams: tuple[Filed, ...] = ()
    forgotten: tuple[str, ...] = ()

    @property
    def memory(self) -> Filed:
        """The stream that is the board."""
        return self.stream(memory_stream(self.board))

    def stream(self, name: str) -> Filed:
        """One of its streams."""
        return next(stream for stream in self.streams if stream.name == name)

    @property
    def blocks(self) -> list[Block]:
        """All its blocks."""
        return [block for stream in self.streams for block in stream.blocks]

    @property
    def size(self) -> int:
        """Bytes of its blocks; backups share them."""
        return sum({block.name: block.size for block in self.blocks}.values())

    def is_of(self, created: Iterable[str]) -> bool:
        """Whether it is of a board that was one of these at some time."""
        return not {self.created, *self.lives}.isdisjoint(created)

    def check(self) -> None:
        """Make sure that it is as we write them.

        Raises:
            InvalidError: It is not.
        """
        if self.format != FORMAT:
            raise InvalidError(f"it has format {self.format}; this reads {FORMAT}")
        check_token("board", self.board)
        known = kept_streams(self.board)
        names = [stream.name for stream in self.streams]
        if len(set(names)) != len(names) or not set(names) <= known.keys():
            raise InvalidError(f"it has streams {names!r}, which board {self.board!r} has not")
        if memory_stream(self.board) not in names:
            raise InvalidError("it lacks the board itself")
        for stream in self.streams:
            _check_stream(stream)


def _check_stream(stream: Filed) -> None:
    before = 0
    for block in stream.blocks:
        if not DIGEST.match(block.name):
            raise InvalidError(f"it names a block {block.name!r}, which is none of ours")
        if not before < block.first <= block.last <= stream.last <= MAX_SEQUENCE:
            raise InvalidError(f"the blocks of {stream.name} are not in order")
        before = block.last
    for consumer in stream.consumers:
        name = consumer.config.get("durable_name")
        if not isinstance(name, str) or not CONSUMER.match(name):
            raise InvalidError(f"{stream.name} has a consumer {name!r}, which is none of ours")
        if consumer.config.get("name") != name or consumer.config.get("deliver_subject"):
            raise InvalidError(f"consumer {name!r} of {stream.name} is none of a handler")


class _Sealed(msgspec.Struct):
    sha256: str
    backup: msgspec.Raw


_read_sealed = msgspec.json.Decoder(_Sealed)
_read_backup = msgspec.json.Decoder(Backup)


def seal(backup: Backup) -> bytes:
    """A backup's manifest, with a checksum of itself."""
    body = msgspec.json.encode(backup)
    return msgspec.json.encode(_Sealed(hashlib.sha256(body).hexdigest(), msgspec.Raw(body))) + b"\n"


def unseal(body: bytes) -> Backup:
    """Read and check a manifest.

    Raises:
        InvalidError: It is damaged, or none of ours.
    """
    sealed = read(_read_sealed, body)
    if hashlib.sha256(sealed.backup).hexdigest() != sealed.sha256:
        raise InvalidError("it was damaged: its checksum is another")
    backup = read(_read_backup, bytes(sealed.backup))
    backup.check()
    return backup


def kept_streams(board: str) -> dict[str, tuple[str, ...]]:
    """The streams that a backup keeps, and how the subjects in them begin, in the order of reading.

    What tells of memories is read before them, and what they name after them, so that nothing in a
    backup names what is not in it; the ledger, which names positions of others, comes first. The
    cards of running agents are not kept: they last for seconds.
    """
    return {
        ledger_stream(board): (f"ledger.{board}",),
        reads_stream(board): (f"{PREFIX}rd.{board}.",),
        audit_stream(board): (f"audit.{board}.",),
        spans_stream(board): (f"spans.{board}.",),
        dead_stream(board): (f"dead.{board}.", f"retry.{board}."),
        f"KV_{state_bucket(board)}": (f"$KV.{state_bucket(board)}.",),
        memory_stream(board): (f"mem.{board}.", f"claim.{board}."),
        blob_stream(board): (f"blob.{board}.",),
    }


def made_anew(board: str) -> set[str]:
    """The streams of a board that a backup does not keep."""
    names = {stream.name for stream in streams_of(board, Limits())}
    return (names - kept_streams(board).keys()) | {f"KV_{presence_bucket(board)}"}
