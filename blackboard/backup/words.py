"""What was forgotten on a board, as its receipts say: read where the board lies, here or in files.

A receipt names what it covers by digests, so it tells a backup that holds a memory that this one is
meant, and tells nobody else. An order that is not worked off yet is a wish that a restored board
has to know of as well.
"""

from collections.abc import Iterable, Iterator

import msgspec

from blackboard.codec import decode_record
from blackboard.errors import InvalidError, NotFoundError
from blackboard.jetstream import Connection
from blackboard.jetstream.message import read_headers
from blackboard.jetstream.packed import Record
from blackboard.jetstream.snapshot import records
from blackboard.ledger.key import is_signed
from blackboard.receipts import Part, Range, Receipt, digest_of
from blackboard.subjects import FORGET, memory_stream


class Word(msgspec.Struct):
    """What is known of one order.

    Attributes:
        order: Its id.
        wish: The order itself; it is erased when it is done.
        receipt: The newest; None when the order was not taken up yet.
        parts: What was removed.
        kept: The messages of receipt and parts.
    """

    order: str
    wish: Record | None = None
    receipt: Receipt | None = None
    parts: dict[int, Part] = {}
    kept: dict[str, Record] = {}

    @property
    def done(self) -> bool:
        """What it covers is gone from every reader."""
        return self.receipt is not None and self.receipt.removed is not None

    @property
    def pending(self) -> bool:
        """It waits to be worked off."""
        return self.wish is not None and not self.done

    @property
    def digests(self) -> set[str]:
        """Of the references that it took away."""
        return {one for part in self.parts.values() for one in part.refs}

    @property
    def reason(self) -> str:
        """Why, as it was given."""
        return "" if self.receipt is None else self.receipt.reason

    def ranges(self) -> Iterator[tuple[str, Range]]:
        """The sequences that it took away, by stream."""
        for part in self.parts.values():
            for span in part.ranges:
                yield part.store, span

    def check(self) -> None:
        """Make sure that it is as the steward signed it.

        Raises:
            InvalidError: It was changed, or a part is missing.
        """
        receipt = self.receipt
        if receipt is None or not self.done:
            return
        if receipt.signature and not is_signed(receipt.key, receipt.statement(), receipt.signature):
            raise InvalidError(f"receipt {self.order} was changed: it is not signed by its key")
        parts = [self.parts[number] for number in range(receipt.parts) if number in self.parts]
        if len(parts) != receipt.parts or digest_of(parts) != receipt.digest:
            raise InvalidError(f"the parts of receipt {self.order} were changed, or are missing")


class Words(msgspec.Struct):
    """What is known of all orders on a board.

    Attributes:
        board: Its name.
        lives: When its stream was made, and those that it goes on from.
        found: By order.
        key: The public key that the newest receipt is signed with.
    """

    board: str
    lives: tuple[str, ...]
    found: dict[str, Word] = {}
    key: str | None = None

    @property
    def done(self) -> list[str]:
        """The orders that are carried out."""
        return sorted(word.order for word in self.found.values() if word.done)

    def take(self, record: Record) -> None:
        """Learn from one message of the board, whichever it is."""
        tokens = record.subject.split(".") if record.subject.startswith("claim.") else []
        if len(tokens) != 5 or tokens[1:3] != [self.board, FORGET]:
            return
        author, name = tokens[3:]
        letter, _, order = name.partition("-")
        if letter not in ("e", "f") or read_headers(record.block).get("Bb-Agent") != author:
            return
        order, _, number = order.partition("-")
        word = self.found.setdefault(order, Word(order))
        if letter == "f":
            word.wish = record
            return
        word.kept[name] = record
        if number.isdecimal():
            word.parts[int(number)] = decode_record(record.data, Part)
        else:
            word.receipt = decode_record(record.data, Receipt)
            self.key = word.receipt.key or self.key

    def learn(self, others: "Words") -> None:
        """Take up what others know and these do not.

        Raises:
            InvalidError: Those are of another board.
        """
        if self.board != others.board or set(self.lives).isdisjoint(others.lives):
            raise InvalidError(
                f"these receipts are of another board {others.board!r}; name the board that was "
                "backed up, or a later backup of it"
            )
        for order, word in others.found.items():
            mine = self.found.get(order)
            if mine is None or (word.done and not mine.done):
                self.found[order] = word

    def check(self) -> "Words":
        """Make sure that all receipts are as they were signed; gives these words.

        Raises:
            InvalidError: One was changed.
        """
        for word in self.found.values():
            word.check()
        return self


def words_in(board: str, lives: Iterable[str], found: Iterable[Record]) -> Words:
    """What the messages of a board say was forgotten.

    Raises:
        InvalidError: A receipt was changed.
    """
    words = Words(board, tuple(lives))
    for record in found:
        words.take(record)
    return words.check()


async def words_at(connection: Connection, board: str) -> Words:
    """What was forgotten on a board at the broker.

    Raises:
        NotFoundError: There is no such board.
        InvalidError: A receipt was changed.
        UnavailableError: The broker does not answer.
    """
    info = await connection.stream(memory_stream(board))
    if info is None:
        raise NotFoundError(f"there is no board {board!r} at {connection.url}")
    words = Words(board, (*info.lives, info.created))
    subject = f"claim.{board}.{FORGET}.>"
    last = info.state.last_seq
    async for record in records(connection, info.name, last, subject=subject):
        words.take(record)
    return words.check()
