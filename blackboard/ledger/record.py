"""One record of the chain: its canonical bytes, its hash, and what the board's key signs.

A record is stored as canonical JSON (RFC 8785). Its hash is the SHA-256 of the same without the
member `hash`, and each record names the hash of the one before, so whoever changes, removes or
moves a record has to make all later ones anew, and cannot sign them.
"""

import hashlib
from datetime import datetime
from typing import Any

import msgspec

from blackboard.codec import read
from blackboard.errors import InvalidError
from blackboard.ledger.items import AnyItem, Mark


class Position(msgspec.Struct, frozen=True):
    """How far a source was taken up into the chain."""

    source: str
    """Tells the stream, or file, from a later one of the same name."""
    sequence: int


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One link.

    Attributes:
        n: Counted from 1.
        at: The steward's time.
        previous: Hash of record n - 1; empty for the first.
        positions: How far each source was taken up, this record included. They are what a steward
            goes on from, so nothing is counted twice or skipped, whenever one is killed.
        items: What is said.
        hash: Of all that.
    """

    n: int
    at: datetime
    previous: str
    positions: dict[str, Position]
    items: tuple[AnyItem, ...]
    hash: str = ""

    @property
    def mark(self) -> Mark:
        """Its number and hash."""
        return Mark(self.n, self.hash)


# For the ASCII names used here this order, and how the library writes text and integers, is what
# RFC 8785 asks for; there are no other numbers. A test holds the two against each other.
_encoder = msgspec.json.Encoder(order="sorted")
_decoder = msgspec.json.Decoder(Record)
_tree = msgspec.json.Decoder(dict[str, Any])


def seal(record: Record) -> tuple[Record, bytes]:
    """Put the hash on a record; returns it and the bytes to store."""
    tree = msgspec.to_builtins(record)
    del tree["hash"]
    digest = hashlib.sha256(_encoder.encode(tree)).hexdigest()
    tree["hash"] = digest
    return msgspec.structs.replace(record, hash=digest), _encoder.encode(tree)


def open_record(body: bytes) -> Record:
    """Read a record, trusting it.

    Raises:
        InvalidError: It is no record.
    """
    return read(_decoder, body)


def check_record(body: bytes) -> Record:
    """Read a record and check that it is what was sealed, byte for byte.

    Raises:
        InvalidError: It is no record, or was altered.
    """
    record = open_record(body)
    tree = read(_tree, body)
    if _encoder.encode(tree) != body:
        raise InvalidError("it is not written as records are: it was altered")
    del tree["hash"]
    digest = hashlib.sha256(_encoder.encode(tree)).hexdigest()
    if digest != record.hash:
        raise InvalidError(f"its content has the hash {digest[:12]}…, not {record.hash[:12]}…")
    return record


def statement(board: str, mark: Mark, removed: Mark | None) -> bytes:
    """What the board's key signs: canonical JSON."""
    tree: dict[str, Any] = {"board": board, "hash": mark.hash, "n": mark.n}
    if removed is not None:
        tree["removed"] = {"hash": removed.hash, "n": removed.n}
    return _encoder.encode(tree)
