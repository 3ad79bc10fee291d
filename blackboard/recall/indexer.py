"""Keeps one index current: follows the stream from where the index is, and takes in what comes.

What is taken in at once is folded to the newest revision of each memory, so a burst of revisions
costs one embedding. The index says how far it is, and what was applied behind that is applied
again after a crash; so there is nothing to lose, only to repeat.
"""

import logging
import time
from collections.abc import Sequence

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from blackboard.background import background
from blackboard.clock import now
from blackboard.envelope import is_expired
from blackboard.errors import BlackboardError, RetryableError, UnavailableError
from blackboard.jetstream import Follower, Message, Start, follow
from blackboard.log import Log
from blackboard.messages import Memory
from blackboard.recall.entries import Entries
from blackboard.recall.index import Index
from blackboard.recall.notice import Notice
from blackboard.subjects import Pattern, Ref
from blackboard.telemetry import INDEX_LAG, INDEX_SKIPPED, INDEXED

logger = logging.getLogger(__name__)

BATCH = 128
"""Messages taken in at once, when so many wait."""
STRIDE = 16
"""Messages read at a time, between which searches get their turn."""
BUFFER = 512
FLUSH_S = 15.0
"""How much work a crash may make the next start repeat; a flush stops searches for a moment."""
TIDY_S = 10.0
SCRUB_S = 3600.0
"""How long what was taken back may stay on the disk of the index."""
GATHER_S = 0.5
"""What is forgotten together is scrubbed together."""
FORGOTTEN = "forgotten"
SWEEP_S = 5.0
SWEEP = 1_000
RETRY_S = 0.5
LONGEST_RETRY_S = 15.0


class Indexer:
    """Takes the stream of one board into one index.

    Attributes:
        index: The index.
        position: The last revision that can be searched.
        whole: It has once been through all that there was.
        trouble: Why it does not get on; None when it does.
    """

    def __init__(
        self, log: Log, index: Index, entries: Entries, position: int, notice: Notice | None = None
    ) -> None:
        self.index = index
        self.position = position
        self.whole = False
        self.trouble: str | None = None
        self._log = log
        self._entries = entries
        self._notice = notice
        self._scrub = anyio.Event()
        self._told = False
        self._subject = Pattern(">").subject(log.board)
        self._pending = 0
        self._buffered = 0
        self._started = False
        self._progress = anyio.Event()
        self._writing = anyio.Lock()
        self._dirty = False
        self._engine_s = 0.0
        self._failure: BlackboardError | None = None
        self._group: TaskGroup | None = None

    @property
    def lag(self) -> int:
        """Messages that the index has not taken in, as far as is known."""
        return self._pending + self._buffered

    @property
    def current(self) -> bool:
        """Everything that is known of has been taken in."""
        return self._started and self.lag == 0

    @property
    def skipped(self) -> int:
        """Memories that could not be indexed."""
        return self._entries.skipped

    @property
    def seconds(self) -> dict[str, float]:
        """Where the time went."""
        return {**self._entries.seconds, "engine": self._engine_s}

    async def reach(self, revision: int, patience_s: float) -> bool:
        """Wait until a revision has been taken in; False when it was not in time."""
        if self.position >= revision:
            return True
        with anyio.move_on_after(patience_s):
            if self.current and await self._is_passed(revision):
                return True
            while self.position < revision:
                await self._progress.wait()
        return self.position >= revision

    async def progress(self) -> None:
        """Wait for the next step."""
        await self._progress.wait()

    async def run(self) -> None:
        """Follow the stream; returns never.

        Raises:
            BlackboardError: The stream or the index is gone, or the index cannot be written.
        """
        start = Start.after(self.position) if self.position else Start.newest()
        send, receive = anyio.create_memory_object_stream[Message](BUFFER)
        async with (
            follow(self._log.connection, self._log.stream, self._subject, start) as follower,
            receive,
            background() as group,
        ):
            self._group = group
            self._pending = follower.pending
            self._started = True
            self._step()
            if self._notice is not None:
                await self._notice.open(self.position)
            group.start_soon(self._read, follower, send)
            group.start_soon(self._keep_flushed)
            group.start_soon(self._keep_swept)
            group.start_soon(self._keep_tidy)
            while batch := await self._batch(receive):
                await self._take(batch)
                self._buffered -= len(batch)
                self._step()
        raise self._failure or UnavailableError(f"{self._log.stream} ended")

    async def flush(self) -> None:
        """Make what was taken in durable."""
        async with self._writing:
            if self._dirty:
                self._dirty = False
                await self.index.flush()

    async def _is_passed(self, revision: int) -> bool:
        """Whether a revision will never come: it expired, or was replaced and deleted."""
        try:
            following = await self._log.reads.next_after(self._subject, self.position + 1)
        except BlackboardError:
            return False
        return following is None or following.sequence > revision

    def _step(self) -> None:
        self.whole = self.whole or self.current
        self._log.telemetry.measure(INDEX_LAG, self.lag)
        self._progress.set()
        self._progress = anyio.Event()

    async def _read(self, follower: Follower, send: MemoryObjectSendStream[Message]) -> None:
        async with send:
            while True:
                try:
                    message = await follower.step()
                except BlackboardError as error:
                    self._failure = error
                    return
                if message is not None:
                    self._buffered += 1
                    self._pending = follower.pending
                    await send.send(message)
                elif self._pending or not self.whole:
                    self._pending = 0
                    self._step()

    async def _batch(self, receive: MemoryObjectReceiveStream[Message]) -> list[Message]:
        try:
            batch = [await receive.receive()]
        except anyio.EndOfStream:
            return []
        while len(batch) < BATCH:
            try:
                batch.append(receive.receive_nowait())
            except (anyio.WouldBlock, anyio.EndOfStream):
                break
        return batch

    async def _take(self, batch: Sequence[Message]) -> None:
        newest: dict[Ref, Memory] = {}
        for number, message in enumerate(batch, 1):
            if number % STRIDE == 0:
                await anyio.lowlevel.checkpoint()
            memory = self._log.delivered(message)
            if memory is not None:
                newest.pop(memory.ref, None)
                newest[memory.ref.unpinned] = memory
        live = [memory for memory in newest.values() if _is_live(memory)]
        gone = [ref for ref, memory in newest.items() if not _is_live(memory)]
        # Of all, not of the newest: what was put again since has an older revision on the disk.
        forgotten = max(
            (one.sequence for one in batch if one.headers.get("Bb-Gone") == FORGOTTEN), default=0
        )
        pause_s = RETRY_S
        while True:
            try:
                if forgotten and self._notice is not None:
                    await self._notice.saw(forgotten)
                    self._scrub.set()
                await self._apply(live, gone, batch[-1].sequence)
            except RetryableError as error:
                if self.trouble is None:
                    logger.warning("board %s: %s", self._log.board, error)
                self.trouble = str(error)
                self._progress.set()
                self._progress = anyio.Event()
                await anyio.sleep(pause_s)
                pause_s = min(LONGEST_RETRY_S, pause_s * 2)
            else:
                if self.trouble is not None:
                    logger.info("board %s: indexing goes on", self._log.board)
                self.trouble = None
                return

    async def _apply(self, live: Sequence[Memory], gone: Sequence[Ref], position: int) -> None:
        skipped = self.skipped
        # Both under the lock: what expires in between may not leave its words behind.
        async with self._writing:
            entries, failed = await self._entries.of(live, gone)
            # What cannot be indexed must not be found as what it was before.
            began = time.perf_counter()
            await self.index.apply(entries, [*gone, *failed], position)
            self._engine_s += time.perf_counter() - began
            self.position = position
            self._dirty = True
        self._log.telemetry.count(INDEXED, len(entries))
        if self.skipped > skipped:
            self._log.telemetry.count(INDEX_SKIPPED, self.skipped - skipped)

    async def _keep_flushed(self) -> None:
        while True:
            await anyio.sleep(FLUSH_S)
            try:
                await self.flush()
            except RetryableError as error:
                self._dirty = True
                logger.warning("board %s: %s", self._log.board, error)
            except BlackboardError as error:
                self._fail(error)

    async def _keep_swept(self) -> None:
        """Take out what expired; nobody finds it anyway, but it takes room."""
        while True:
            await anyio.sleep(SWEEP_S)
            try:
                # Both under the lock: a revision between the two may have lengthened a life.
                async with self._writing:
                    over = await self.index.expired(now(), SWEEP)
                    if over:
                        bereft, _ = await self._entries.of([], over)
                        await self.index.apply(bereft, over, self.position)
                        self._dirty = True
            except RetryableError as error:
                logger.debug("indexer.sweep", extra={"error": str(error)})
            except BlackboardError as error:
                self._fail(error)

    async def _keep_tidy(self) -> None:
        """Let the engine do what keeps searches quick, beside everything else."""
        scrubbed = anyio.current_time()
        while True:
            with anyio.move_on_after(TIDY_S):
                await self._scrub.wait()
                await anyio.sleep(GATHER_S)
            due = await self._due()
            scrub = due > 0 or anyio.current_time() - scrubbed > SCRUB_S
            try:
                await self.index.tidy(scrub=scrub)
                await self._tell(due)
            except RetryableError as error:
                logger.warning("board %s: %s", self._log.board, error)
            except BlackboardError as error:
                self._fail(error)
            if scrub:
                scrubbed = anyio.current_time()

    async def _due(self) -> int:
        """Up to which tombstone everything is taken out, but not yet off the disk; 0 for none."""
        self._scrub = anyio.Event()
        if self._notice is None or not self._notice.due:
            return 0
        # What is being taken in right now may be among it.
        async with self._writing:
            return self._notice.due if self.position >= self._notice.due else 0

    async def _tell(self, due: int) -> None:
        """Say on the board how far the index is clean."""
        if self._notice is None:
            return
        if due and self.index.erases:
            await self._notice.cleaned(due)
        elif not due and self.whole and not self._told:
            # A new one that never saw what was forgotten, because nothing of it is left.
            self._told = True
            await self._notice.cleaned(self.position)

    def _fail(self, error: BlackboardError) -> None:
        self._failure = error
        if self._group is not None:
            self._group.cancel_scope.cancel()


def _is_live(memory: Memory) -> bool:
    return memory.gone is None and not is_expired(memory)
