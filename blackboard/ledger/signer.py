"""What the board's key does for a ledger: checkpoints in the chain, and receipts beside it."""

from pathlib import Path

from blackboard.errors import SettingsError
from blackboard.ledger.items import Began, Checkpoint, Gap, Mark
from blackboard.ledger.key import BoardKey
from blackboard.ledger.receipt import Receipt, read_receipt, write_receipt
from blackboard.ledger.record import Record, statement
from blackboard.ledger.streams import ledger_stream


class Signer:
    """Signs for one board.

    Args:
        board: The board's name.
        key: The board's.
        receipt: Where the newest receipt is kept; None keeps none.
    """

    def __init__(self, board: str, key: BoardKey, receipt: Path | None) -> None:
        self._board = board
        self._key = key
        self._receipt = receipt

    def begin(self) -> Began:
        """The first item of a chain."""
        return Began(board=self._board, key=self._key.public)

    def checkpoint(self, mark: Mark, removed: Mark | None) -> Checkpoint:
        """Vouch for a record, and for what was removed before it."""
        return Checkpoint(
            n=mark.n,
            hash=mark.hash,
            key=self._key.public,
            signature=self._key.sign(statement(self._board, mark, removed)),
            removed=removed,
        )

    def check(self, record: Record) -> None:
        """Refuse a chain that another key has signed.

        Raises:
            SettingsError: It has.
        """
        for item in record.items:
            if isinstance(item, Began | Checkpoint) and item.key != self._key.public:
                raise SettingsError(
                    f"the ledger of board {self._board!r} is signed with the key {item.key}, this "
                    f"steward's is {self._key.public}; set BLACKBOARD_BOARD_KEY to the right file"
                )

    def last(self) -> Receipt | None:
        """The newest receipt that was kept."""
        return None if self._receipt is None else read_receipt(self._receipt, self._board)

    def keep(self, record: Record) -> None:
        """Keep a receipt for a record that was stored."""
        if self._receipt is None:
            return
        mark = Mark(record.n, record.hash)
        signature = self._key.sign(statement(self._board, mark, None))
        receipt = Receipt(
            board=self._board,
            n=record.n,
            hash=record.hash,
            key=self._key.public,
            signature=signature,
        )
        write_receipt(self._receipt, receipt)

    def cut(self, receipt: Receipt, reached: int) -> Gap:
        """What there is to say when the record of a receipt is not in the chain."""
        stream = ledger_stream(self._board)
        if reached >= receipt.n:
            reason = f"record {receipt.n} is another one than a steward had written"
            return Gap(about=stream, reason=reason, low=receipt.n, high=receipt.n)
        return Gap(
            about=stream,
            reason=f"a steward had written record {receipt.n} ({receipt.hash}), "
            f"but the chain ended at {reached}: its end was removed",
            low=reached + 1,
            high=receipt.n,
            count=receipt.n - reached,
        )
