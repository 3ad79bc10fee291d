"""Where the indexes of a board stand: directories of this machine, or collections of a server."""

import logging
import shutil
from pathlib import Path

import anyio.to_thread

from blackboard.errors import BlackboardError
from blackboard.recall.catalogue import (
    Book,
    Catalogue,
    catalogued,
    read_catalogue,
    write_catalogue,
)
from blackboard.recall.home import Home
from blackboard.recall.index import Index
from blackboard.settings import Settings

logger = logging.getLogger(__name__)


class Shelf:
    """The indexes of one board and their catalogue.

    Attributes:
        directory: Holds the catalogue, and embedded indexes.
        engine: `edge` or `qdrant`.
    """

    def __init__(self, settings: Settings, home: Home, board: str) -> None:
        self.directory = home.path / "recall" / board
        self._home = home
        self.engine = "edge" if settings.qdrant_url is None else "qdrant"
        self._settings = settings

    def place(self, book: Book) -> str:
        """Where an index lies, for an operator."""
        if self._settings.qdrant_url is not None:
            return (
                f"index {book.name} on the Qdrant server, which takes bytes off its disk when it "
                "sees fit; `blackboard reindex` makes another in its place"
            )
        return f"index {book.name} of {self._settings.machine} in {self.directory}"

    def read(self) -> Catalogue:
        """The catalogue."""
        return read_catalogue(self.directory)

    def write(self, catalogue: Catalogue) -> None:
        """Replace the catalogue.

        Raises:
            UnavailableError: The data directory was removed.
            OSError: It cannot be written to.
        """
        self._home.check()
        for directory in (self.directory.parent, self.directory):
            directory.mkdir(mode=0o700, exist_ok=True)
        write_catalogue(self.directory, catalogue)

    @property
    def there(self) -> bool:
        """Whether it is still where it was put; somebody may have deleted the directory."""
        return catalogued(self.directory)

    async def open(self, book: Book) -> Index:
        """Open an index, making it when it is not there.

        Raises:
            MismatchError: What is there was built with something else.
            BrokenIndexError: What is there cannot be read.
            UnavailableError: The server does not answer.
        """
        url = self._settings.qdrant_url
        if url is None:
            from blackboard.recall.edge import EdgeIndex  # noqa: PLC0415 - one of the two is needed

            return await EdgeIndex.open(self.directory / book.name, book.signature)
        from blackboard.recall.qdrant import QdrantIndex  # noqa: PLC0415

        return await QdrantIndex.open(url, book.name, book.signature, key=self._settings.qdrant_key)

    async def remove(self, book: Book) -> bool:
        """Remove an index; False, and logged, when that has to be tried again."""
        try:
            url = self._settings.qdrant_url
            if url is None:
                await anyio.to_thread.run_sync(_remove, self.directory / book.name)
            else:
                from blackboard.recall import server  # noqa: PLC0415 - as in `open`

                # Not opened: of another format, or half built, it could not be.
                await server.remove(url, book.name, key=self._settings.qdrant_key)
        except (OSError, BlackboardError) as error:
            logger.warning("cannot remove the index %s: %s", book.name, error)
            return False
        return True

    async def tidy(self, catalogue: Catalogue) -> None:
        """Remove directories that the catalogue does not know: it was lost, or damaged."""
        if not self.directory.is_dir():
            return
        known = catalogue.names | {book.name for book in catalogue.leaving}
        for path in list(self.directory.iterdir()):
            if path.is_dir() and path.name not in known:
                await anyio.to_thread.run_sync(_remove, path)


def _remove(directory: Path) -> None:
    if directory.is_dir():
        shutil.rmtree(directory)
