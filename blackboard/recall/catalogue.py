"""Which indexes a board has: the one in service, and perhaps one that is being built beside it.

The catalogue is one small file that is replaced at once, so the change from the old index to the
new is one rename: whoever is killed in between finds the one or the other.
"""

import os
import uuid
from datetime import datetime, timedelta
from pathlib import Path

import msgspec

from blackboard.envelope import TOMBSTONE_S
from blackboard.recall.index import Signature

FILE = "catalogue.json"
REMEMBERED = timedelta(seconds=TOMBSTONE_S) - timedelta(days=1)
"""An index that was last current before that may have missed tombstones that are gone by now."""


class Book(msgspec.Struct, frozen=True, kw_only=True):
    """One index, by the name of its directory or collection.

    Attributes:
        name: New for every index, so that an old one is never taken for it.
        signature: What it was begun with.
        whole: It has once held everything.
        seen: When it was last known to be current.
    """

    name: str
    signature: Signature
    whole: bool = False
    seen: datetime

    @classmethod
    def new(cls, signature: Signature, now: datetime) -> "Book":
        """A book that is to be written."""
        return cls(name=f"{signature.board}-{uuid.uuid4().hex[:8]}", signature=signature, seen=now)

    def is_outdated(self, now: datetime) -> bool:
        """Whether tombstones may have come and gone since it was current."""
        return now - self.seen > REMEMBERED


class Catalogue(msgspec.Struct, frozen=True, kw_only=True):
    """The indexes of a board.

    Attributes:
        active: In service; None on a board that has none yet.
        building: To follow it.
        leaving: To be removed.
    """

    active: Book | None = None
    building: Book | None = None
    leaving: tuple[Book, ...] = ()

    @property
    def names(self) -> set[str]:
        """Of the indexes that are still wanted."""
        return {book.name for book in (self.active, self.building) if book is not None}

    def without(self, *books: Book | None) -> "Catalogue":
        """The same with some books on their way out."""
        gone = {book.name: book for book in (*self.leaving, *books) if book is not None}
        active, building = self.active, self.building
        return Catalogue(
            active=None if active is None or active.name in gone else active,
            building=None if building is None or building.name in gone else building,
            leaving=tuple(gone.values()),
        )

    def with_book(self, book: Book) -> "Catalogue":
        """The same with a newer version of one of its books."""
        active, building = self.active, self.building
        if active is not None and active.name == book.name:
            active = book
        if building is not None and building.name == book.name:
            building = book
        return Catalogue(active=active, building=building, leaving=self.leaving)


def read_catalogue(directory: Path) -> Catalogue:
    """Read it; one that is absent or unreadable is empty, and its indexes are built again."""
    try:
        return msgspec.json.decode((directory / FILE).read_bytes(), type=Catalogue)
    except (OSError, msgspec.MsgspecError):
        return Catalogue()


def write_catalogue(directory: Path, catalogue: Catalogue) -> None:
    """Replace it at once; it is on disk when this returns.

    Raises:
        OSError: The directory is not there, or cannot be written to.
    """
    fresh = directory / f".{FILE}.new"
    with fresh.open("wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(catalogue)))
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(directory / FILE)
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def catalogued(directory: Path) -> bool:
    """Whether the catalogue is still where it was put."""
    return (directory / FILE).exists()
