"""A signed word about how far a ledger had come, kept outside of the broker.

The chain alone cannot show that its end was cut off. Whoever holds a receipt can: the record that
it names must still be there. Each steward keeps its newest beside the board's key, and an operator
gets one from every `audit verify`.
"""

import os
from pathlib import Path

import msgspec

from blackboard.errors import InvalidError, SettingsError
from blackboard.ledger.items import Mark
from blackboard.ledger.key import is_signed
from blackboard.ledger.record import statement


class Receipt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A record of a board's ledger, vouched for by the board's key."""

    board: str
    n: int
    hash: str
    key: str
    signature: str
    removed: Mark | None = None
    """Which records had been signed away."""

    @property
    def mark(self) -> Mark:
        """The record."""
        return Mark(self.n, self.hash)

    @property
    def honest(self) -> bool:
        """Whether the key that it names has signed it."""
        return is_signed(self.key, statement(self.board, self.mark, self.removed), self.signature)


def receipt_path(key: Path, board: str) -> Path:
    """Where a steward keeps its newest receipt: beside the board's key."""
    return key.with_name(f"{key.name}.{board}.receipt")


def read_receipt(path: Path, board: str) -> Receipt | None:
    """Read a receipt; None when there is no such file.

    Raises:
        SettingsError: It cannot be read, is none, or is another board's.
    """
    try:
        receipt = msgspec.json.decode(path.read_bytes(), type=Receipt)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise SettingsError(f"{str(path)!r} is no receipt of a ledger: {error}") from error
    if receipt.board != board:
        raise SettingsError(f"the receipt {str(path)!r} is one of board {receipt.board!r}")
    if not receipt.honest:
        raise SettingsError(f"the receipt {str(path)!r} was altered: its signature does not fit")
    return receipt


def write_receipt(path: Path, receipt: Receipt) -> None:
    """Replace the file at once; an older one is as good after a crash, so the disk is not awaited.

    Raises:
        InvalidError: It cannot be written.
    """
    fresh = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        fresh.write_bytes(msgspec.json.encode(receipt) + b"\n")
        fresh.replace(path)
    except OSError as error:
        raise InvalidError(f"cannot write the receipt {str(path)!r}: {error}") from error
