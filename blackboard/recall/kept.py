"""One open index, with what keeps it current: its embedder and its indexer."""

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio

from blackboard.errors import BlackboardError, RetryableError, SettingsError
from blackboard.log import Log
from blackboard.reader import Reader
from blackboard.recall.catalogue import Book
from blackboard.recall.embed import Embedder
from blackboard.recall.embedders import Embedders
from blackboard.recall.entries import Entries
from blackboard.recall.index import Index
from blackboard.recall.indexer import Indexer
from blackboard.recall.notice import Notice
from blackboard.search import State

logger = logging.getLogger(__name__)

OPEN_S = 8.0
"""How long a question waits for what is being opened."""
RETRY_S = 1.0
LONGEST_RETRY_S = 30.0


class Kept:
    """An open index.

    It can be asked for metadata as soon as it is open; for searches by meaning, and to follow the
    stream, it needs its embedder, which may be away at first.

    Attributes:
        book: Its place in the catalogue.
        index: The index.
        embedder: Its embedder, once that is there.
        scope: Ends `run`.
    """

    def __init__(self, book: Book, index: Index, position: int, where: str) -> None:
        self._where = where
        self.book = book
        self.index = index
        self.embedder: Embedder | None = None
        self.scope = anyio.CancelScope()
        self._position = position
        self._indexer: Indexer | None = None
        self._begun = anyio.Event()
        self._trouble: str | None = None
        self._hopeless = False
        self._users = 0
        self._idle = anyio.Event()

    async def run(self, log: Log, reader: Reader, embedders: Embedders) -> None:
        """Open the embedder, however long that takes, and follow the stream.

        Raises:
            BlackboardError: The stream or the index is gone, or the index cannot be written.
        """
        self.embedder = embedder = await self._opened(embedders)
        entries = Entries(reader, self.index, embedder)
        notice = Notice(log, self.book.name, self._where)
        self._indexer = Indexer(log, self.index, entries, self._position, notice)
        self._begun.set()
        await self._indexer.run()

    async def _opened(self, embedders: Embedders) -> Embedder:
        name, dimensions = self.book.signature.embedder, self.book.signature.dimensions
        pause_s = RETRY_S
        while True:
            self._hopeless = False
            try:
                embedder = await embedders.get(name)
            except BlackboardError as error:
                self._trouble = str(error)
                self._hopeless = isinstance(error, SettingsError)
            else:
                if embedder.dimensions == dimensions:
                    self._trouble = None
                    return embedder
                self._hopeless = True
                self._trouble = (
                    f"the index was built with {name!r} of {dimensions} dimensions, which now has "
                    f"{embedder.dimensions}; run: blackboard reindex --embedder {name}"
                )
            logger.warning("%s", self._trouble)
            await anyio.sleep(pause_s)
            pause_s = min(LONGEST_RETRY_S, pause_s * 2)

    @property
    def position(self) -> int:
        """The last revision that can be searched."""
        return self._position if self._indexer is None else self._indexer.position

    @property
    def whole(self) -> bool:
        """It has once been through all that there was."""
        return self.book.whole or (self._indexer is not None and self._indexer.whole)

    @property
    def current(self) -> bool:
        """It holds everything that is known of."""
        return self._indexer is not None and self._indexer.current

    @property
    def lag(self) -> int:
        """Messages that it has not taken in, as far as is known."""
        return 0 if self._indexer is None else self._indexer.lag

    @property
    def skipped(self) -> int:
        """Memories that could not be indexed."""
        return 0 if self._indexer is None else self._indexer.skipped

    @property
    def seconds(self) -> dict[str, float]:
        """Where the time of indexing went."""
        return {} if self._indexer is None else self._indexer.seconds

    @property
    def trouble(self) -> str | None:
        """Why it does not get on; None when it does."""
        return self._trouble or (None if self._indexer is None else self._indexer.trouble)

    def state(self, *, stale: bool = False) -> State:
        """How far it is, as an answer says it."""
        return State(indexed=self.position, lag=self.lag, stale=stale, catching_up=not self.whole)

    async def ready(self) -> Embedder:
        """Its embedder, which is waited for while it is being opened.

        Raises:
            SettingsError: It cannot be used; the text says what to do.
            RetryableError: It is not there yet.
        """
        if self.embedder is None and self._trouble is None:
            with anyio.move_on_after(OPEN_S):
                await self._begun.wait()
        if self.embedder is None:
            if self._hopeless:
                raise SettingsError(self._trouble or "")
            raise RetryableError(self._trouble or "the embedder is being opened; try again")
        return self.embedder

    async def reach(self, revision: int, patience_s: float) -> bool:
        """Wait until it holds a revision, and everything if it is new; False when not in time."""
        if self.whole and self.position >= revision:
            return True
        with anyio.move_on_after(patience_s):
            await self._begun.wait()
            if self._indexer is None:
                return False
            while not self.whole and self.trouble is None:
                await self._indexer.progress()
            return await self._indexer.reach(revision, patience_s)
        return self.position >= revision

    async def flush(self) -> None:
        """Make what was taken in durable."""
        if self._indexer is not None:
            await self._indexer.flush()

    @asynccontextmanager
    async def used(self) -> AsyncGenerator[None]:
        """Keep it open for the block."""
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            self._idle.set()

    async def close(self) -> None:
        """Stop following, and close it as soon as nobody uses it."""
        self.scope.cancel()
        while self._users:
            self._idle = anyio.Event()
            await self._idle.wait()
        await self.index.close()
