"""The index of a board: what an engine has to do, whichever one it is.

An index is a projection of the stream. It holds references, metadata and vectors, no content
(summaries excepted), and how far it has come; it can be deleted and built again. The engines are
`edge` (in this process) and `qdrant` (a server); one contract suite holds both to this page.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

import msgspec

from blackboard.errors import SettingsError, TerminalError
from blackboard.recall.weights import FloatArray
from blackboard.search import CountBy, Filter, Grant, Order
from blackboard.subjects import Ref


class Sparse(msgspec.Struct, frozen=True):
    """A text as weighted words: token ids and their weights, of equal length."""

    indices: tuple[int, ...] = ()
    values: tuple[float, ...] = ()


class Vectors(msgspec.Struct, frozen=True):
    """A text in both ways in which it is searched."""

    bare: FloatArray
    """(d,) float32 of unit length."""
    words: Sparse


class Company(msgspec.Struct, frozen=True):
    """The only memories that may explain one another: whoever may read one may read them all.

    A memory borrows words of those before it, so it tells who finds it a little about them.
    """

    session: str
    access: str
    topic: str
    user: str | None = None


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One memory as the index holds it: its newest revision.

    Attributes:
        ref: Unpinned; with the board's name it gives the point's id.
        revision: That was taken in.
        access: Label.
        author: Who wrote this revision; of shared state the reference does not tell.
        session: Session.
        user: Data subject.
        kind: Kind.
        tags: Names and values.
        priority: 0 to 1.
        stored: The broker's time.
        happened: The agent's.
        expires: When it ends.
        sources: Unpinned.
        shows: The result of `once` whose content it shows, unpinned; a result shows itself. Hits
            that show the same fold into one.
        borrowed: The memories before it whose words are among its own, unpinned.
        text: Kept for summaries only.
        vectors: For the search.
    """

    ref: Ref
    revision: int
    access: str
    author: str
    session: str | None = None
    user: str | None = None
    kind: str = "note"
    tags: dict[str, str] = {}
    priority: float = 0.5
    stored: datetime
    happened: datetime | None = None
    expires: datetime | None = None
    sources: tuple[Ref, ...] = ()
    shows: Ref | None = None
    borrowed: tuple[Ref, ...] = ()
    text: str | None = None
    vectors: Vectors


class Where(msgspec.Struct, frozen=True):
    """What may be found: the filter, and the rights of who asks, as one predicate in the engine.

    Attributes:
        filter: What was asked for.
        grants: Any of these must hold; None asks nobody (no rights are enforced).
        now: What expired by then is not found.
    """

    filter: Filter
    grants: tuple[Grant, ...] | None
    now: datetime


class Candidate(msgspec.Struct, frozen=True, array_like=True):
    """What the ranking needs of a memory, as an engine hands it over: texts, nothing parsed.

    Attributes:
        ref: Unpinned.
        revision: That was taken in.
        stored: Microseconds since 1970.
        priority: 0 to 1.
        shows: See `Entry`.
        session: Or a digest of it.
    """

    ref: str
    revision: int
    stored: int
    priority: float
    shows: str | None = None
    session: str | None = None

    @property
    def key(self) -> str:
        """What it counts as: the result that it shows, or itself."""
        return self.shows or self.ref


class Scored(msgspec.Struct, frozen=True):
    """A candidate of one part of the search, with that part's own score."""

    candidate: Candidate
    score: float


class Row(msgspec.Struct, frozen=True):
    """A memory that a query selects, and the value that it is ordered by."""

    ref: Ref
    revision: int
    value: str | float | int | None


class Signature(msgspec.Struct, frozen=True):
    """What an index was built with; one built with another cannot be searched."""

    board: str
    embedder: str
    dimensions: int
    recipe: int
    """Version of how texts are made into vectors (`recall.text.RECIPE`)."""
    created: str = ""
    """Of the stream, so that a board that was deleted and made anew is noticed."""


class MismatchError(SettingsError):
    """What is there was built with another signature; build it anew, or open it with its own.

    Args:
        message: What differs, and what to do next.
        found: What it was built with.
    """

    def __init__(self, message: str, found: Signature) -> None:
        super().__init__(message)
        self.found = found


class BrokenIndexError(TerminalError):
    """What is there cannot be read or written any more; build it anew, nothing is lost."""


class Index(Protocol):
    """An index of one board.

    Methods raise `UnavailableError` when the engine does not answer, and nothing is lost by calling
    again; `BrokenIndexError` when it never will.
    """

    @property
    def signature(self) -> Signature:
        """What it was built with."""
        ...

    @property
    def loose(self) -> int:
        """Memories that are compared one by one until `tidy` builds graphs over them."""
        ...

    @property
    def erases(self) -> bool:
        """Whether `tidy` takes what was removed off the disk; else only a new index does."""
        ...

    async def position(self) -> int:
        """The last revision that it durably holds; 0 when it is new.

        Everything up to it is in the index; of what follows, some may be.
        """
        ...

    async def apply(self, entries: Sequence[Entry], gone: Sequence[Ref], position: int) -> None:
        """Take in the newest revisions and take out what is gone, and then `position`.

        Idempotent. An entry that is older than what is there changes nothing, and what is gone is
        taken out only if its revision is `position` at most: it may have been written again since.
        A reference is in one of the two. What was applied is searched from here on; it is on disk
        by the next `flush`.

        Raises:
            InvalidError: A vector is none, or of other dimensions; nothing was applied.
        """
        ...

    async def flush(self) -> None:
        """Make everything applied, and its position, durable.

        May take a second and hold up whatever else this process does: not for every `apply`.
        """
        ...

    async def tidy(self, *, scrub: bool = False) -> bool:
        """Do what keeps searches quick, if it is due; call it behind flushes, in a task of its own.

        Searches and writes go on meanwhile, and are held up at the end for about a second. It
        costs nothing when nothing is due. Cancelling leaves the index as it was.

        Args:
            scrub: Also take off the disk what is left there of removed and replaced memories.

        Returns:
            Whether anything was done.
        """
        ...

    async def search(self, vectors: Vectors, where: Where, limit: int) -> dict[str, list[Scored]]:
        """The best candidates of each part (`bare`, `words`), best first.

        The predicate is applied inside the search, before the limit. Candidates that show the same
        result count once towards the limit; parts may name one result by different memories, so
        whoever fuses them goes by `shows` where it is set.

        Raises:
            InvalidError: The topic is no pattern, or a vector is none or of other dimensions.
        """
        ...

    async def select(self, where: Where, order: Order, limit: int, after: Row | None) -> list[Row]:
        """Rows in order, behind `after` if given, which need not be there any more.

        Equal values are ordered by revision, in the direction of the order; memories without a
        value (`happened`) come last either way. What is not revised while a caller pages is
        neither skipped nor repeated, whatever else is written.
        """
        ...

    async def count(
        self, where: Where, by: Sequence[CountBy]
    ) -> tuple[int, dict[str, dict[str, int]]]:
        """How many match, and how many per value; tags as `name=value`."""
        ...

    async def newest(self, company: Company, before: int, limit: int) -> list[Ref]:
        """The last memories below a revision in the same company that show no result, pinned.

        The nearest first.
        """
        ...

    async def borrowers(self, refs: Sequence[Ref]) -> list[Ref]:
        """The memories that borrowed words of these, pinned to what was taken in."""
        ...

    async def vectors(self, ref: Ref) -> Vectors | None:
        """The vectors of a memory; None when it is not there."""
        ...

    async def get(self, ref: Ref) -> Entry | None:
        """A memory as it is held, vectors included; None when it is not there.

        Values of more than 256 characters are held, and come back, shortened to a digest.
        """
        ...

    async def expired(self, now: datetime, limit: int) -> list[Ref]:
        """Memories whose time is over and that are still held."""
        ...

    async def close(self) -> None:
        """Flush, and let go of files and connections."""
        ...

    async def destroy(self) -> None:
        """Close, and remove the index with everything in it."""
        ...
