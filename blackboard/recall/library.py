"""The indexes of one board, as a service has them: opened, kept current, and replaced.

There is one index in service, and at times a second one that is being built beside it. Both follow
the stream; when the second has caught up, one rename of the catalogue puts it in the place of the
first.
"""

import logging

import anyio
import msgspec
from anyio.abc import TaskGroup

from blackboard.background import background
from blackboard.clock import now
from blackboard.errors import BlackboardError, SettingsError, TerminalError, UnavailableError
from blackboard.log import Log
from blackboard.reader import Reader
from blackboard.recall.catalogue import Book, Catalogue
from blackboard.recall.embedders import MINILM, Embedders
from blackboard.recall.index import BrokenIndexError, MismatchError, Signature, Where
from blackboard.recall.kept import OPEN_S, Kept
from blackboard.recall.notice import Notice
from blackboard.recall.shelf import Shelf
from blackboard.recall.text import RECIPE
from blackboard.search import Building, Filter, Status

logger = logging.getLogger(__name__)

CHECK_S = 2.0
"""How often it is looked whether an index is current, and its directory still there."""
BUILDING_CHECK_S = 0.2
NOTED_S = 60.0
"""How often it is noted that an index was current."""
RETRY_S = 1.0
LONGEST_RETRY_S = 30.0


class Library:
    """The indexes of one board; `run` keeps them.

    Args:
        log: The board.
        reader: Of the same.
        shelf: Where the indexes stand.
        embedders: Of this process.
    """

    def __init__(self, log: Log, reader: Reader, shelf: Shelf, embedders: Embedders) -> None:
        self.log = log
        self._reader = reader
        self._shelf = shelf
        self._embedders = embedders
        self._catalogue = Catalogue()
        self._active: Kept | None = None
        self._building: Kept | None = None
        self._group: TaskGroup | None = None
        self._opened = anyio.Event()
        self._again = anyio.Event()
        self._trouble: BlackboardError | None = None
        self._mismatch: str | None = None
        self._changing = anyio.Lock()

    async def run(self) -> None:
        """Open the indexes and keep them current until cancelled, whatever happens to them."""
        pause_s = RETRY_S
        while True:
            began = anyio.current_time()
            try:
                await self._keep()
            except Exception as error:  # noqa: BLE001 - of one board; the others go on
                self._failed(error)
            if anyio.current_time() - began > LONGEST_RETRY_S:
                pause_s = RETRY_S
            await anyio.sleep(pause_s)
            pause_s = min(LONGEST_RETRY_S, pause_s * 2)

    async def active(self) -> Kept:
        """The index in service.

        Raises:
            UnavailableError: It cannot be opened now; the text says why.
            SettingsError: It cannot be until the settings are mended.
        """
        with anyio.move_on_after(OPEN_S):
            while self._active is None and not isinstance(self._trouble, SettingsError):
                await self._opened.wait()
        if self._active is None:
            if isinstance(self._trouble, SettingsError):
                raise self._trouble
            why = self._trouble or f"the index of board {self.log.board!r} is being opened"
            raise UnavailableError(f"{why}; try again")
        return self._active

    def check_embedder(self) -> None:
        """Refuse to search by meaning with another embedder than the settings name.

        Raises:
            SettingsError: The index was built with another; the text has the command to run.
        """
        if self._mismatch is not None and self._building is None:
            raise SettingsError(self._mismatch)

    async def status(self) -> Status:
        """How the indexes are."""
        kept = await self.active()
        async with kept.used():
            memories, _ = await kept.index.count(Where(Filter(), None, now()), ())
        building = self._building
        return Status(
            engine=self._shelf.engine,
            embedder=kept.book.signature.embedder,
            dimensions=kept.book.signature.dimensions,
            memories=memories,
            loose=kept.index.loose,
            skipped=kept.skipped,
            seconds=kept.seconds,
            state=kept.state(),
            building=None
            if building is None
            else Building(
                embedder=building.book.signature.embedder,
                indexed=building.position,
                lag=building.lag,
            ),
            trouble=kept.trouble
            or (None if building is None else building.trouble)
            or (self._mismatch if building is None else None),
        )

    async def reindex(self, embedder: str | None) -> Status:
        """Begin a new index beside the one in service; one that is being built already goes on.

        Args:
            embedder: Of the new index; None keeps that of the old one.

        Raises:
            SettingsError: The embedder cannot be used here.
            RetryableError: It does not answer now.
            TerminalError: It refuses.
        """
        kept = await self.active()
        name = embedder or kept.book.signature.embedder
        async with self._changing:
            building = self._building
            if building is None or building.book.signature.embedder != name:
                book = await self._new_book(name)
                if building is not None:
                    self._building = None
                    await building.close()
                    self._write(self._catalogue.without(building.book))
                leaving = self._catalogue.leaving
                self._write(Catalogue(active=kept.book, building=book, leaving=leaving))
                await self._clear()
                await self._start(book)
        return await self.status()

    # Keeping

    async def _keep(self) -> None:
        """Keep what the catalogue names; returns when it has to be looked at again."""
        await self._plan()
        self._again = anyio.Event()
        async with background() as group:
            self._group = group
            try:
                for book in (self._catalogue.active, self._catalogue.building):
                    if book is not None:
                        await self._start(book)
                self._trouble = None
                await self._watch()
            finally:
                kept = (self._active, self._building)
                self._active = self._building = None
                self._opened = anyio.Event()
                with anyio.CancelScope(shield=True):
                    for one in kept:
                        if one is not None:
                            await one.close()

    async def _plan(self) -> None:
        """Decide which indexes there shall be, from those there are."""
        info = await self.log.connection.stream(self.log.stream)
        if info is None:
            raise UnavailableError(f"there is no board {self.log.board!r}")
        there = self._shelf.read()
        active = self._usable(there.active, info.created)
        building = self._usable(there.building, info.created)
        if building is not None and building.signature.recipe != RECIPE:
            building = await self._new_book(building.signature.embedder)
        if active is None:
            active, building = building, None
        if active is None:
            active = await self._new_book(self._embedders.wanted or MINILM)
        elif active.signature.recipe != RECIPE and building is None:
            building = await self._new_book(active.signature.embedder)
        self._mismatch = self._mismatched(active)
        catalogue = there.without(*_left_out(there, active, building))
        self._write(Catalogue(active=active, building=building, leaving=catalogue.leaving))
        await self._clear()
        await self._shelf.tidy(self._catalogue)

    def _usable(self, book: Book | None, created: str) -> Book | None:
        if book is None:
            return None
        reason = None
        if book.signature.created != created:
            reason = "the board was made anew"
        elif book.is_outdated(now()):
            reason = "it was not kept for longer than tombstones live"
        if reason is None:
            return book
        logger.warning("board %s: the index is built again: %s", self.log.board, reason)
        return None

    def _mismatched(self, active: Book) -> str | None:
        wanted, have = self._embedders.wanted, active.signature.embedder
        if wanted in (None, have):
            return None
        return (
            f"the index of board {self.log.board!r} was built with {have!r}, and its service "
            f"is set to {wanted!r}; run: blackboard reindex --embedder {wanted}, or set "
            f"BLACKBOARD_EMBEDDING_MODEL to {have}"
        )

    async def _new_book(self, name: str) -> Book:
        info = await self.log.connection.stream(self.log.stream)
        embedder = await self._embedders.get(name)
        signature = Signature(
            board=self.log.board,
            embedder=name,
            dimensions=embedder.dimensions,
            recipe=RECIPE,
            created="" if info is None else info.created,
        )
        return Book.new(signature, now())

    async def _start(self, book: Book) -> None:
        try:
            index = await self._shelf.open(book)
            position = await index.position()
        except (BrokenIndexError, MismatchError) as error:
            # It is a projection: what cannot be read is built again.
            logger.warning("board %s: %s; it is built again", self.log.board, error)
            book = self._replaced(book)
            await self._clear()
            index = await self._shelf.open(book)
            position = await index.position()
        if position == 0 and book.whole:
            # Its directory is gone, but not the catalogue.
            book = msgspec.structs.replace(book, whole=False)
        kept = Kept(book, index, position, self._shelf.place(book))
        active = self._catalogue.active
        if active is not None and active.name == book.name:
            self._active = kept
            self._opened.set()
        else:
            self._building = kept
        if self._group is None:
            raise AssertionError("started outside of `run`")
        self._group.start_soon(self._follow, kept)

    async def _follow(self, kept: Kept) -> None:
        with kept.scope:
            try:
                await kept.run(self.log, self._reader, self._embedders)
            except (BrokenIndexError, MismatchError) as error:
                logger.warning("board %s: %s; it is built again", self.log.board, error)
                self._replaced(kept.book)
            except Exception as error:  # noqa: BLE001 - of one board; the others go on
                self._failed(error)
            self._again.set()

    def _failed(self, error: Exception) -> None:
        """Keep what went wrong for those who ask; it is tried again."""
        if isinstance(error, BlackboardError):
            self._trouble = error
            logger.warning("board %s: %s", self.log.board, error)
        else:
            self._trouble = UnavailableError(f"the index failed ({type(error).__name__}: {error})")
            logger.error("board %s", self.log.board, exc_info=error)
        if self._active is None:
            # Those who wait for it look again.
            self._opened.set()
            self._opened = anyio.Event()

    def _replaced(self, book: Book) -> Book:
        """Put a new and empty index in the place of one that is of no use any more."""
        there = self._catalogue
        new = Book.new(book.signature, now())
        active, building = there.active, there.building
        if active is not None and active.name == book.name:
            active = new
        else:
            building = new
        leaving = there.without(book).leaving
        self._write(Catalogue(active=active, building=building, leaving=leaving))
        return new

    async def _clear(self) -> None:
        """Remove what is on its way out."""
        left = [book for book in self._catalogue.leaving if not await self._removed(book)]
        if len(left) < len(self._catalogue.leaving):
            there = self._catalogue
            self._write(
                Catalogue(active=there.active, building=there.building, leaving=tuple(left))
            )

    async def _removed(self, book: Book) -> bool:
        if not await self._shelf.remove(book):
            return False
        await Notice(self.log, book.name, self._shelf.place(book)).removed()
        return True

    async def _watch(self) -> None:
        """Note what is current, and put the new index in the place of the old when it is ready."""
        while not self._again.is_set():
            with anyio.move_on_after(BUILDING_CHECK_S if self._building else CHECK_S):
                await self._again.wait()
            if not self._shelf.there:
                raise TerminalError("the directory of the index was deleted; it is built again")
            async with self._changing:
                for kept in (self._active, self._building):
                    if kept is not None:
                        await self._note(kept)
                building = self._building
                if building is not None and building.book.whole and building.current:
                    await self._switch(building)

    async def _note(self, kept: Kept) -> None:
        moment = now()
        due = (moment - kept.book.seen).total_seconds() > NOTED_S
        if not kept.current or (kept.book.whole and not due):
            return
        await kept.flush()
        kept.book = msgspec.structs.replace(kept.book, whole=True, seen=moment)
        self._write(self._catalogue.with_book(kept.book))

    async def _switch(self, new: Kept) -> None:
        await new.flush()
        old, there = self._active, self._catalogue
        leaving = there.without(there.active).leaving
        self._write(Catalogue(active=new.book, leaving=leaving))
        self._active, self._building = new, None
        self._mismatch = None
        logger.info(
            "board %s: the index of %s is in service", self.log.board, new.book.signature.embedder
        )
        if old is not None:
            await old.close()
        await self._clear()

    def _write(self, catalogue: Catalogue) -> None:
        self._shelf.write(catalogue)
        self._catalogue = catalogue


def _left_out(there: Catalogue, *kept: Book | None) -> list[Book]:
    """The books of a catalogue that are not kept."""
    names = {book.name for book in kept if book is not None}
    return [
        book
        for book in (there.active, there.building)
        if book is not None and book.name not in names
    ]
