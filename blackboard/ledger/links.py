"""The chain itself, link by link: hashes, order, signatures, and what was removed from it.

Pure: it is fed what lies in the stream, and says what is wrong with it and where.
"""

from dataclasses import dataclass, field

import msgspec

from blackboard.errors import InvalidError
from blackboard.ledger.items import Began, Checkpoint, Mark
from blackboard.ledger.key import is_signed
from blackboard.ledger.receipt import Receipt
from blackboard.ledger.record import Record, check_record, open_record, statement


class Finding(msgspec.Struct, frozen=True):
    """Something that is not as it was written."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


@dataclass(slots=True)
class Links:
    """The links seen so far.

    Attributes:
        board: The board's name.
        key: The public key that all must be signed with; taken from the chain when None.
        findings: What is wrong.
        records: How many are there.
        signed: The last record that a signature vouches for.
        head: The last record.
        checkpoint: The last signed word.
    """

    board: str
    key: str | None = None
    findings: list[Finding] = field(default_factory=list[Finding])
    records: int = 0
    checkpoints: int = 0
    signed: int = 0
    first: Record | None = None
    head: Record | None = None
    removed: Mark | None = None
    checkpoint: Receipt | None = None
    _sequence: int = 0
    _hashes: dict[int, str] = field(default_factory=dict[int, str])

    def feed(self, sequence: int, body: bytes) -> Record | None:
        """Take the next message of the stream; returns the record, as far as it can be read."""
        try:
            record = check_record(body)
        except InvalidError as error:
            record = self._damaged(sequence, body, error)
            if record is None:
                return None
        self._order(sequence, record)
        for item in record.items:
            if isinstance(item, Began | Checkpoint):
                self._signed(record, item)
        self._hashes[record.n] = record.hash
        self.records += 1
        self.first = self.first or record
        self.head, self._sequence = record, sequence
        return record

    def end(self, last_sequence: int, marks: list[Mark]) -> None:
        """The stream is read.

        Args:
            last_sequence: The last that the broker gave to a message of the stream.
            marks: Records that somebody has a receipt of.
        """
        first = self.first
        if first is not None and first.n > 1:
            self._beginning(first)
        if last_sequence > self._sequence:
            count = last_sequence - self._sequence
            after = "the beginning" if self.head is None else f"record {self.head.n}"
            self._found(
                "end of the chain",
                f"{count} message{'s' if count > 1 else ''} behind {after} removed: the broker "
                f"gave out sequence {last_sequence}, the last that is there is {self._sequence}",
            )
        for mark in marks:
            self._against(mark)

    def _damaged(self, sequence: int, body: bytes, error: InvalidError) -> Record | None:
        self._found(self._place(sequence), f"altered: {error}")
        try:
            return open_record(body)
        except InvalidError:
            self.records += 1
            self._sequence = sequence
            return None

    def _place(self, sequence: int) -> str:
        number = sequence if self.head is None else self.head.n + sequence - self._sequence
        return f"record {number}"

    def _order(self, sequence: int, record: Record) -> None:
        head = self.head
        if head is None:
            if record.n == 1 and record.previous:
                self._found("record 1", "names a record before it, though it is the first")
            return
        where = f"record {record.n}"
        if record.n == head.n + 1:
            if record.previous != head.hash:
                self._found(
                    where,
                    f"follows a record {head.n} with the hash {record.previous[:12]}…, but the one "
                    f"that is there has {head.hash[:12]}…: that one was replaced",
                )
            if self._sequence and sequence != self._sequence + 1:
                self._found(where, "a message that was no record was removed before it")
        elif record.n > head.n + 1:
            gone = f"{head.n + 1}" if record.n == head.n + 2 else f"{head.n + 1} to {record.n - 1}"
            self._found(f"record {gone}", f"removed: record {head.n} is followed by {record.n}")
        else:
            self._found(where, f"stands behind record {head.n}: the order was changed")

    def _signed(self, record: Record, item: Began | Checkpoint) -> None:
        where = f"record {record.n}"
        self.key = self.key or item.key
        if item.key != self.key:
            self._found(where, f"is signed with the key {item.key}, not with {self.key}")
            return
        if isinstance(item, Began):
            if item.board != self.board:
                self._found(where, f"belongs to the ledger of board {item.board!r}")
            return
        mark = Mark(item.n, item.hash)
        if not is_signed(item.key, statement(self.board, mark, item.removed), item.signature):
            self._found(where, f"its signature over record {item.n} does not fit")
            return
        self.checkpoints += 1
        known = self._hashes.get(item.n)
        if known is not None and known != item.hash:
            self._found(
                f"record {item.n}",
                f"is not the one that was signed: the checkpoint in record {record.n} names the "
                f"hash {item.hash[:12]}…",
            )
        elif known is not None:
            self.signed = max(self.signed, item.n)
            self.checkpoint = Receipt(
                board=self.board,
                n=item.n,
                hash=item.hash,
                key=item.key,
                signature=item.signature,
                removed=item.removed,
            )
        if item.removed is not None and (self.removed is None or self.removed.n < item.removed.n):
            self.removed = item.removed

    def _beginning(self, first: Record) -> None:
        removed = self.removed
        if removed is None or first.n > removed.n + 1:
            kept = "no signed checkpoint says so" if removed is None else f"only {removed.n} were"
            self._found(f"record 1 to {first.n - 1}", f"removed, and {kept} (signed away)")
            return
        link = first.previous if first.n == removed.n + 1 else self._hashes.get(removed.n)
        if link != removed.hash:
            self._found(
                f"record {removed.n}", "is not the one that was signed away when room was made"
            )

    def _against(self, mark: Mark) -> None:
        where = f"record {mark.n}"
        if self.removed is not None and mark.n <= self.removed.n:
            return
        known = self._hashes.get(mark.n)
        if known is None:
            reached = 0 if self.head is None else self.head.n
            self._found(
                where,
                f"removed: a receipt names it, but the chain ends at record {reached}"
                if mark.n > reached
                else "removed: a receipt names it",
            )
        elif known != mark.hash:
            self._found(where, "is another one than a receipt names: the chain was made anew")

    def _found(self, where: str, what: str) -> None:
        self.findings.append(Finding(where, what))
