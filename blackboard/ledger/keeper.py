"""Keeps the ledger of one board: takes up what happened, and appends it as chained records.

A record a second while something happens, and one at once when a service waits for its own note:
it must not answer an agent before it stands in the chain that it did. Any number of stewards may
keep one ledger. Whoever loses the race for the next record looks at what the other wrote, drops
what that has already, and goes on; so nothing is counted twice, and a steward that is killed at any
moment leaves a chain that the next goes on from.
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import anyio
import anyio.to_thread

from blackboard import clock
from blackboard.errors import (
    BlackboardError,
    ConflictError,
    InvalidError,
    TooLargeError,
    UnavailableError,
)
from blackboard.jetstream import Connection
from blackboard.ledger.chain import Chain
from blackboard.ledger.deliveries import Deliveries
from blackboard.ledger.items import AnyItem, Checkpoint, Mark
from blackboard.ledger.key import BoardKey
from blackboard.ledger.notes import Note, Notes, folded
from blackboard.ledger.pruning import Pruning
from blackboard.ledger.record import Position, Record, seal
from blackboard.ledger.signer import Signer
from blackboard.ledger.source import Journals, Policies, Reads, Source
from blackboard.ledger.tap import Tap
from blackboard.ledger.violations import Violations

logger = logging.getLogger(__name__)

INTERVAL_S = 1.0
"""How long items gather, unless somebody waits."""
LOOK_S = 10.0
"""How often consumers and the broker's log are looked at."""
NOTED_S = 5.0
"""How long somebody waits for his note at most."""
RETRY_S = 1.0
FINAL_S = 2.0
MANY = 5_000
"""Messages of a source that are not left to gather."""
CHECKPOINT_RECORDS = 1_000
CHECKPOINT_AFTER = timedelta(minutes=1)
NOTES, REMARKS, READS, JOURNALS = 256, 1_000, 1_000, 2_000
"""Of one record, at most; fewer when it is too large for a message (1 MiB) nevertheless."""


@dataclass(slots=True)
class _Tried:
    """An append that may have been stored: what it took along."""

    hash: str
    notes: list[Note]
    lost: int
    remarks: int


class Ledger:
    """The ledger of one board; `run` keeps it, `note` and `noted` tell it of things.

    Args:
        connection: A steward's.
        board: The board's name.
        key: The board's.
        receipt: Where the newest receipt is kept; None keeps none, and then only others can tell
            that the end of the chain was cut off.
        violations: The broker's log; None when it is not known.
        interval_s: How long items gather.
        look_s: How often consumers are looked at.
        now: The time.
    """

    def __init__(
        self,
        connection: Connection,
        board: str,
        key: BoardKey,
        *,
        receipt: Path | None = None,
        violations: Violations | None = None,
        interval_s: float = INTERVAL_S,
        look_s: float = LOOK_S,
        checkpoint_records: int = CHECKPOINT_RECORDS,
        now: Callable[[], datetime] = clock.now,
    ) -> None:
        self.board = board
        self._signer = Signer(board, key, receipt)
        self._chain = Chain(connection, board)
        self._sources: tuple[Source, ...] = (
            Reads(connection, board),
            Journals(connection, board),
            Policies(connection, board),
        )
        self._deliveries = Deliveries(connection, board)
        self._violations = violations
        self._tap = Tap(connection, board, self.note, now)
        self._pruning = Pruning(connection, self._chain.stream)
        self._interval_s = interval_s
        self._look_s = look_s
        self._checkpoint_records = checkpoint_records
        self._now = now
        self._notes = Notes()
        self._urgent = anyio.Event()
        self._trouble: BlackboardError | None = UnavailableError("nobody keeps it yet")
        self._head: Record | None = None
        self._sequence = 0
        self._unsigned = 0
        self._signed_at = now()
        self._gathered_at = anyio.current_time()
        self._remarks: list[AnyItem] = []
        self._tried: _Tried | None = None
        self._scale = 1

    # What services tell

    def note(self, item: AnyItem) -> None:
        """Put an item into one of the next records; returns at once.

        While the ledger cannot be written it waits. What finds no room is counted, and the chain
        says how many are missing.
        """
        if self._notes.add(item, awaited=False) is None:
            self._notes.lost += 1

    async def noted(self, *items: AnyItem) -> None:
        """Put items into the chain, and wait until they are stored for good.

        For what must not be done without a record: whoever serves a read does so after this.

        Raises:
            UnavailableError: They could not be stored within 5 s; do not do what they say.
        """
        if self._trouble is not None:
            raise self._refusal(self._trouble)
        notes = [note for item in items if (note := self._notes.add(item, awaited=True))]
        try:
            if len(notes) < len(items):
                raise UnavailableError("too much waits for the ledger; nothing was done, try again")
            self._urgent.set()
            with anyio.move_on_after(NOTED_S):
                for note in notes:
                    await note.done.wait()
        finally:
            for note in notes:
                self._notes.withdraw(note)
        for note in notes:
            if not note.done.is_set():
                raise self._refusal(UnavailableError("the broker did not store it in time"))
            if note.error is not None:
                raise self._refusal(note.error)

    @property
    def head(self) -> Record | None:
        """The newest record, as far as this steward knows; None before the first."""
        return self._head

    @property
    def trouble(self) -> BlackboardError | None:
        """Why nothing can be recorded at the moment; None when all is well."""
        return self._trouble

    def _refusal(self, error: BlackboardError) -> UnavailableError:
        return UnavailableError(
            f"the ledger of board {self.board!r} cannot record this, so it was not done ({error}); "
            "try again, and tell the operator if it stays so"
        )

    # Keeping it

    async def run(self) -> None:
        """Keep the ledger until cancelled; then write what is left, for at most 2 s.

        Whatever is wrong, a key that is not the one that the ledger began with included, it is
        tried again, and meanwhile nothing can be noted.
        """
        self._trouble = UnavailableError("the ledger is being read")
        try:
            await self._begin()
            async with anyio.create_task_group() as group:
                for source in self._sources:
                    group.start_soon(source.run)
                group.start_soon(self._tap.run)
                group.start_soon(self._look)
                await self._write()
        finally:
            self._trouble = UnavailableError("the steward is ending")
            self._notes.refuse(self._trouble)

    async def _begin(self) -> None:
        """Read the chain, for as long as it takes until the broker answers."""
        while True:
            try:
                await self._load()
            except BlackboardError as error:
                if str(error) != str(self._trouble):
                    logger.warning("ledger of board %s: %s", self.board, error)
                self._trouble = error
                await anyio.sleep(RETRY_S)
            else:
                self._trouble = None
                return

    async def _load(self) -> None:
        # The receipt first: one read later may be ahead of the head, if another steward writes.
        receipt = self._signer.last()
        head, sequence = await self._chain.head()
        known: set[str] = set()

        def take(record: Record) -> None:
            if receipt is not None and record.n == receipt.n:
                known.add(record.hash)
            self._learn(record)

        await self._chain.walk(sequence, take)
        self._head, self._sequence = head, sequence
        reached = 0 if head is None else head.n
        if receipt is None or receipt.hash in known or self._pruning.covers(receipt.mark):
            return
        cut = self._signer.cut(receipt, reached)
        self._remarks = [cut]
        logger.error("ledger of board %s: %s", self.board, cut.reason)

    def _learn(self, record: Record) -> None:
        """Take up what a record says, whoever wrote it."""
        self._signer.check(record)
        signed = any(isinstance(item, Checkpoint) for item in record.items)
        only = signed and len(record.items) == 1
        self._unsigned = 0 if only else 1 if signed else self._unsigned + 1
        if signed:
            self._signed_at = self._now()
        for source in self._sources:
            source.learn(record.positions)
        if self._violations is not None:
            self._violations.learn(record.positions)
        self._deliveries.learn(record)
        self._pruning.learn(record)

    async def _write(self) -> None:
        try:
            while True:
                try:
                    if self._trouble is not None:
                        await self._catch_up()
                    while await self._append():
                        pass
                    self._trouble = None
                    await self._make_room()
                except BlackboardError as error:
                    await self._failed(error)
                await self._due()
        finally:
            with anyio.move_on_after(FINAL_S, shield=True):
                try:
                    await self._append(final=True)
                except BlackboardError as error:
                    logger.warning("ledger of board %s at the end: %s", self.board, error)

    async def _failed(self, error: BlackboardError) -> None:
        if self._trouble is None:
            logger.warning("ledger of board %s: %s", self.board, error)
        self._trouble = error
        self._notes.refuse(error)
        await anyio.sleep(RETRY_S)

    async def _make_room(self) -> None:
        before = self._pruning.wanted
        await self._pruning.tend()
        if before is None and self._pruning.wanted is not None:
            # What is said of consumers that are still there must not go with the beginning.
            self._remarks += self._deliveries.living()

    async def _due(self) -> None:
        with anyio.move_on_after(self._interval_s):
            await self._urgent.wait()
        self._urgent = anyio.Event()

    async def _append(self, *, final: bool = False) -> bool:
        """Append a record, if there is something to say; True when there is more already."""
        notes = self._notes.first(NOTES // self._scale)
        lost = self._notes.lost
        remarks = self._remarks[: REMARKS // self._scale]
        positions = {} if self._head is None else dict(self._head.positions)
        items = [*remarks, *folded(notes, lost, self._now())]
        more = len(self._notes) > len(notes) or len(self._remarks) > len(remarks)
        if final or anyio.current_time() - self._gathered_at >= self._interval_s or self._many:
            self._gathered_at = anyio.current_time()
            more |= self._gather(items, positions)
        self._sign(items, final=final)
        if not items:
            return False
        self._tried = _Tried("", notes, lost, len(remarks))
        return not await self._store(items, positions) or more or self._notes.awaited

    @property
    def _many(self) -> bool:
        return any(source.waiting >= MANY for source in self._sources)

    def _gather(self, items: list[AnyItem], positions: dict[str, Position]) -> bool:
        """Add what the broker and the agents say; True when there is more than one record holds."""
        more = False
        for source, limit in zip(self._sources, (READS, JOURNALS, REMARKS), strict=True):
            found = source.fold(limit // self._scale)
            if found is not None:
                items += found.items
                positions[source.name] = found.position
                more |= found.messages < source.waiting
        items += self._deliveries.news(self._now())[: REMARKS // self._scale]
        news = None if self._violations is None else self._violations.news()
        if self._violations is not None and news is not None:
            items += news[0]
            positions[self._violations.name] = news[1]
        return more

    def _sign(self, items: list[AnyItem], *, final: bool) -> None:
        """Let the key vouch for the newest record when it is time to."""
        head = self._head
        if head is None:
            items.insert(0, self._signer.begin())
            return
        late = self._now() - self._signed_at >= CHECKPOINT_AFTER
        many = self._unsigned >= self._checkpoint_records
        removed = None if self._remarks else self._pruning.wanted
        if removed is not None or (self._unsigned and (late or many or final)):
            items.append(
                self._signer.checkpoint(Mark(head.n, head.hash), removed or self._pruning.removed)
            )

    async def _store(self, items: Iterable[AnyItem], positions: dict[str, Position]) -> bool:
        """Append a record; False when another steward was faster, whose records are learnt then.

        Raises:
            BoardFullError: The ledger is full.
            UnavailableError: The broker is away; stored or not, which the next try finds out.
        """
        head = self._head
        record, body = seal(
            Record(
                n=1 if head is None else head.n + 1,
                at=self._now(),
                previous="" if head is None else head.hash,
                positions=positions,
                items=tuple(items),
            )
        )
        if self._tried is not None:
            self._tried.hash = record.hash
        try:
            sequence = await self._chain.append(body, self._sequence)
        except TooLargeError:
            if self._scale > NOTES:
                raise
            self._scale *= 2
            return False
        except (ConflictError, UnavailableError):
            await self._catch_up()
            return self._head is not None and self._head.hash == record.hash
        self._scale = max(1, self._scale // 2)
        self._pruning.grew(len(body))
        self._take(record, sequence)
        return True

    async def _catch_up(self) -> None:
        """Learn what was appended since, by another steward or by an append without an answer."""
        _, last = await self._chain.head()
        async for record in self._chain.after(self._sequence, last):
            if self._head is not None and record.previous != self._head.hash:
                raise InvalidError(
                    f"record {record.n} of {self._chain.stream} does not follow record "
                    f"{self._head.n}: the chain was altered; run blackboard audit verify"
                )
            self._take(record, self._sequence)
        self._sequence = last

    def _take(self, record: Record, sequence: int) -> None:
        self._head, self._sequence = record, sequence
        self._learn(record)
        tried = self._tried
        if tried is not None and tried.hash == record.hash:
            self._tried = None
            self._notes.stored(tried.notes, tried.lost)
            del self._remarks[: tried.remarks]
        self._signer.keep(record)

    async def _look(self) -> None:
        while True:
            try:
                await self._deliveries.look()
            except BlackboardError as error:
                logger.warning("ledger of board %s: cannot see consumers: %s", self.board, error)
            if self._violations is not None:
                try:
                    await anyio.to_thread.run_sync(self._violations.look)
                except OSError as error:
                    logger.warning("ledger: cannot read the broker's log: %s", error)
            await anyio.sleep(self._look_s)
