"""Rows in order, page after page: what they are ordered by, and where the next page begins.

A page begins behind the last row of the page before, by value and revision, instead of so many
rows further on; so what others write meanwhile neither repeats a row nor hides one.
"""

import base64
import binascii
import math
from collections.abc import Iterable
from datetime import datetime

import msgspec

from blackboard.codec import decoder_of, encode_record, read
from blackboard.errors import InvalidError
from blackboard.messages import Memory
from blackboard.subjects import Ref

Value = str | float | int | None
"""What a row is ordered by; times are microseconds since the epoch."""


class Cursor(msgspec.Struct, frozen=True, array_like=True):
    """The last row of a page."""

    order_by: str
    value: Value
    revision: int
    ref: Ref

    def __str__(self) -> str:
        return base64.urlsafe_b64encode(encode_record(self)).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str, order_by: str) -> "Cursor":
        """Read a cursor.

        Raises:
            InvalidError: It is none, or belongs to rows in another order.
        """
        try:
            body = base64.b64decode(text + "=" * (-len(text) % 4), b"-_", validate=True)
            cursor = read(_read_cursor, body)
        except (binascii.Error, ValueError, InvalidError) as error:
            raise InvalidError("that is no cursor; take it from the rows before") from error
        if cursor.order_by != order_by:
            raise InvalidError(
                f"the cursor belongs to rows ordered by {cursor.order_by!r}; keep order_by="
            )
        if isinstance(cursor.value, float) and not math.isfinite(cursor.value):
            raise InvalidError("that is no cursor; take it from the rows before")
        return cursor

    @classmethod
    def at(cls, memory: Memory, order_by: str) -> "Cursor":
        """A page that ends with a memory."""
        return cls(order_by, order_value(memory, order_by), memory.revision, memory.ref.unpinned)

    def precedes(self, memory: Memory) -> bool:
        """Whether a memory comes behind this row."""
        value = order_value(memory, self.order_by)
        if value != self.value and (value is None or self.value is None):
            return value is None
        there, here = (_sortable(value), memory.revision), (_sortable(self.value), self.revision)
        return there < here if self.order_by.startswith("-") else there > here


_read_cursor = decoder_of(Cursor)


def order_value(memory: Memory, order_by: str) -> Value:
    """What a memory is ordered by."""
    match order_by.removeprefix("-"):
        case "stored":
            return microseconds(memory.stored)
        case "happened":
            return microseconds(memory.happened)
        case "priority":
            return memory.priority
        case "agent":
            return memory.agent
        case _:
            return memory.topic


def in_order(memories: Iterable[Memory], order_by: str) -> list[Memory]:
    """Memories as `order_by` says; equal ones by revision, those without a value last."""
    descending = order_by.startswith("-")
    rows = sorted(memories, key=lambda memory: memory.revision, reverse=descending)
    valued = [(order_value(memory, order_by), memory) for memory in rows]
    there = [pair for pair in valued if pair[0] is not None]
    # A sort that is reversed keeps the order of equal ones, too.
    there.sort(key=lambda pair: _sortable(pair[0]), reverse=descending)
    return [memory for _, memory in there] + [memory for value, memory in valued if value is None]


def _sortable(value: Value) -> tuple[float, str]:
    return (0.0, value) if isinstance(value, str) else (value or 0.0, "")


def microseconds(moment: datetime | None) -> int | None:
    """A time as a number that sorts and compares exactly."""
    return None if moment is None else round(moment.timestamp() * 1_000_000)
