"""What services tell the ledger: items that wait for the next record.

Equal ones of one record are folded. There is room for so many; what finds none is either refused
to whoever has to be sure, or counted, and the chain says how much is missing.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice

import anyio
import msgspec

from blackboard.errors import BlackboardError
from blackboard.ledger.items import AnyItem, Denied, Evaded, Gap, Served

CAPACITY = 10_000
LONGEST = 1024
"""Characters of a text in an item; what a caller sent may be of any length."""


@dataclass(slots=True)
class Note:
    """An item that waits, and who waits for it."""

    item: AnyItem
    awaited: bool
    done: anyio.Event = field(default_factory=anyio.Event)
    error: BlackboardError | None = None

    def end(self, error: BlackboardError | None = None) -> None:
        """Let whoever waits go on."""
        self.error = error
        self.done.set()


class Notes:
    """The items that wait."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._waiting: dict[int, Note] = {}  # by identity, in order
        self.lost = 0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def awaited(self) -> bool:
        """Whether somebody waits."""
        return any(note.awaited for note in self._waiting.values())

    def add(self, item: AnyItem, *, awaited: bool) -> Note | None:
        """Take an item; None when there is no room."""
        if len(self._waiting) >= self._capacity:
            return None
        note = Note(_shortened(item), awaited)
        self._waiting[id(note)] = note
        return note

    def withdraw(self, note: Note) -> None:
        """Take an item back that nobody waits for any more; it may be in a record already."""
        self._waiting.pop(id(note), None)

    def first(self, count: int) -> list[Note]:
        """The oldest, which stay until they are `stored`."""
        return list(islice(self._waiting.values(), count))

    def stored(self, notes: Iterable[Note], lost: int) -> None:
        """They are in the chain, and so is how many were lost."""
        self.lost -= lost
        for note in notes:
            self.withdraw(note)
            note.end()

    def refuse(self, error: BlackboardError) -> None:
        """Nothing can be stored now: those who wait are told, and what they brought goes."""
        for note in [note for note in self._waiting.values() if note.awaited]:
            self.withdraw(note)
            note.end(error)


def folded(notes: Iterable[Note], lost: int, now: datetime) -> list[AnyItem]:
    """Items for a record: equal ones as one, with their number."""
    found: dict[AnyItem, AnyItem] = {}
    for note in notes:
        item = note.item
        if isinstance(item, Served | Denied | Evaded):
            _fold(found, item, now)
        else:
            found[msgspec.structs.replace(item)] = item
    items = list(found.values())
    if lost:
        reason = "more was noted than could be kept while the ledger could not be written"
        items.append(Gap(about="notes", reason=reason, count=lost))
    return items


def _fold(found: dict[AnyItem, AnyItem], item: Served | Denied | Evaded, now: datetime) -> None:
    if isinstance(item, Served):
        key: AnyItem = msgspec.structs.replace(item, at=None, count=1)
        known = found.get(key)
        at, count = item.at or now, item.count
        if isinstance(known, Served):
            at, count = known.at or at, known.count + count
        found[key] = msgspec.structs.replace(item, at=at, count=count)
        return
    key = msgspec.structs.replace(item, first=None, last=None, count=1)
    known = found.get(key)
    first, last, count = item.first or now, item.last or item.first or now, item.count
    if isinstance(known, Denied | Evaded):
        first, count = known.first or first, known.count + count
    found[key] = msgspec.structs.replace(item, first=first, last=last, count=count)


def _shortened(item: AnyItem) -> AnyItem:
    long = {
        name: value[: LONGEST - 1] + "…"
        for name, value in msgspec.structs.asdict(item).items()
        if isinstance(value, str) and len(value) > LONGEST
    }
    return msgspec.structs.replace(item, **long) if long else item
