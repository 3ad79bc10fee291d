"""What both engines have in common: folding, ordering, paging, counting, over a few plain calls.

An engine brings the calls (find, scroll, facet, ...); what answers mean is decided here, once.

Order. Engines order by numbers only, and leave open how equal ones are ordered. Here equal ones are
ordered by revision, that is in the order in which they were written; a descending order is the
exact reverse; memories without a value come last either way. A page is three bounded calls at most:
what is left of the value at which the last page ended, what comes behind that value, and the last
value again if the limit cut through it. Nothing is remembered between pages: a cursor is a row.

Folding. Candidates that show the same result are one. When there are too few left after folding,
the search is repeated without what was folded, for twice as many, so that a thousand light memories
of one result cost a few calls and hide nobody.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from datetime import datetime
from operator import attrgetter
from typing import Any, Final

import msgspec

from blackboard.recall import points, predicate
from blackboard.recall.index import Company, Entry, Row, Scored, Signature, Sparse, Vectors, Where
from blackboard.recall.predicate import All, Between, Condition, Empty, Not, OneOf
from blackboard.recall.weights import FloatArray
from blackboard.search import CountBy, Order
from blackboard.subjects import Ref

PARTS = (points.BARE, points.WORDS)
SLACK = 16
"""Candidates asked for beyond the limit, so that a few that fold need no second search."""
MAX_FETCH = 8192
MAX_VALUES = 1_000_000
"""Different values that a count lists."""
TAKE = 256
"""Entries in one call to an engine: some ten milliseconds, in which nothing else is served."""
_FIELD: Final[dict[CountBy, str]] = {
    "agent": "agent",
    "topic": "topic",
    "session": "session",
    "user": "user",
    "kind": "kind",
    "access": "access",
    "tag": "tags",
}


class Point(msgspec.Struct, frozen=True):
    """A point as an engine gives it back: its fields, and its score if it was searched for."""

    fields: Mapping[str, Any]
    score: float = 0.0


class Sort(msgspec.Struct, frozen=True):
    """An order of numbers, from a number on (itself included)."""

    field: str
    descending: bool = False
    start: float | None = None


class Collection(ABC):
    """An `Index` over the calls of one engine.

    Args:
        signature: What the index was built with.
    """

    def __init__(self, signature: Signature) -> None:
        self._signature = signature

    @property
    def signature(self) -> Signature:
        """What it was built with."""
        return self._signature

    @property
    def loose(self) -> int:
        """Memories without a graph, as far as the engine tells; see `Index.loose`."""
        return 0

    @property
    def erases(self) -> bool:
        """Whether `tidy` takes what was removed off the disk."""
        return True

    # What an engine brings.

    @abstractmethod
    async def _find(
        self, wanted: Mapping[str, FloatArray | Sparse], condition: All, limit: int
    ) -> list[list[Point]]:
        """The best points of each part, best first, with the fields of a candidate."""

    @abstractmethod
    async def _scroll(
        self, condition: All, limit: int, sort: Sort | None, fields: Sequence[str]
    ) -> list[Point]:
        """Points that match; without `sort` in any order."""

    @abstractmethod
    async def _facet(self, field: str, condition: All) -> dict[str, int]:
        """How many points match per value, exactly."""

    @abstractmethod
    async def _count(self, condition: All) -> int:
        """How many points match, exactly."""

    @abstractmethod
    async def _retrieve(self, ids: Sequence[str], fields: Sequence[str]) -> dict[str, Point]:
        """Points by id; those that are not there are left out."""

    @abstractmethod
    async def _read(self, id: str) -> tuple[Mapping[str, Any], Vectors] | None:  # noqa: A002
        """All fields and vectors of a point."""

    # The contract.

    async def search(self, vectors: Vectors, where: Where, limit: int) -> dict[str, list[Scored]]:
        """The best candidates of each part; see `Index.search`."""
        points.check(vectors, self._signature)
        found: dict[str, list[Scored]] = {part: [] for part in PARTS}
        condition = predicate.compile(where)
        if condition is None or limit < 1:
            return found
        wanted: dict[str, FloatArray | Sparse] = {points.BARE: vectors.bare}
        if vectors.words.indices:
            wanted[points.WORDS] = vectors.words
        best = {part: dict[str, Scored]() for part in wanted}
        fetch = limit + SLACK
        while wanted:
            folded = {
                key for part in wanted for key, one in best[part].items() if one.candidate.shows
            }
            answers = await self._find(wanted, _without(condition, folded), fetch)
            again: dict[str, FloatArray | Sparse] = {}
            for (part, vector), answer in zip(wanted.items(), answers, strict=True):
                for point in answer:
                    one = points.candidate(point.fields)
                    best[part].setdefault(one.key, Scored(one, point.score))
                if len(best[part]) < limit and len(answer) == fetch:
                    again[part] = vector
            wanted, fetch = again, min(2 * fetch, MAX_FETCH)
        for part, kept in best.items():
            found[part] = sorted(kept.values(), key=_score, reverse=True)[:limit]
        return found

    async def select(self, where: Where, order: Order, limit: int, after: Row | None) -> list[Row]:
        """Rows in order; see `Index.select`."""
        condition = predicate.compile(where)
        if condition is None or limit < 1:
            return []
        field, descending = order.removeprefix("-"), order.startswith("-")
        if field in {"agent", "topic"}:
            return await self._by_text(condition, field, limit, after, descending=descending)
        return await self._by_number(condition, field, limit, after, descending=descending)

    async def count(
        self, where: Where, by: Sequence[CountBy]
    ) -> tuple[int, dict[str, dict[str, int]]]:
        """How many match, and how many per value; see `Index.count`."""
        condition = predicate.compile(where)
        if condition is None:
            return 0, {what: {} for what in by}
        counts: dict[str, dict[str, int]] = {}
        for what in by:
            values = await self._facet(_FIELD[what], condition)
            counts[what] = _named(values) if what == "tag" else values
        return await self._count(condition), counts

    async def newest(self, company: Company, before: int, limit: int) -> list[Ref]:
        """The last memories before a revision, of its company; see `Index.newest`."""
        user = company.user
        condition = All(
            (
                OneOf("session", (predicate.kept(company.session),)),
                OneOf("access", (company.access,)),
                OneOf("topic", (company.topic,)),
                Empty("user") if user is None else OneOf("user", (predicate.kept(user),)),
                Empty("shows"),
                Between("revision", lt=before),
            )
        )
        found = await self._scroll(condition, limit, Sort("revision", descending=True), _ROW)
        return [_pinned(point) for point in found]

    async def borrowers(self, refs: Sequence[Ref]) -> list[Ref]:
        """The memories that borrowed words of these; see `Index.borrowers`."""
        if not refs:
            return []
        condition = All((OneOf("borrowed", tuple(str(ref.unpinned) for ref in refs)),))
        found = await self._scroll(condition, MAX_FETCH, None, _ROW)
        return [_pinned(point) for point in found]

    async def vectors(self, ref: Ref) -> Vectors | None:
        """The vectors of a memory; None when it is not there."""
        found = await self._read(points.point_id(self._signature.board, ref))
        return None if found is None else found[1]

    async def get(self, ref: Ref) -> Entry | None:
        """A memory as it is held; None when it is not there."""
        found = await self._read(points.point_id(self._signature.board, ref))
        return None if found is None else points.entry(*found)

    async def expired(self, now: datetime, limit: int) -> list[Ref]:
        """Memories whose time is over; see `Index.expired`."""
        # What keeps the books of an engine is marked by an end at 0, so that no search finds it.
        over = All((Between("expires", gt=0, lte=predicate.microseconds(now)),))
        found = await self._scroll(over, limit, Sort("expires"), _ROW)
        return [points.ref(point.fields["ref"]) for point in found]

    # Steps.

    async def _newer(self, entries: Sequence[Entry]) -> tuple[dict[str, Entry], int]:
        """By point, the entries that are not older than what is there; how many are replaced."""
        latest: dict[str, Entry] = {}
        for entry in entries:
            points.check(entry.vectors, self._signature)
            place = points.point_id(self._signature.board, entry.ref)
            if place not in latest or latest[place].revision <= entry.revision:
                latest[place] = entry
        there = await self._retrieve(list(latest), ["revision"]) if latest else {}
        newer = {
            place: entry
            for place, entry in latest.items()
            if place not in there or there[place].fields["revision"] <= entry.revision
        }
        return newer, len(newer.keys() & there.keys())

    async def _by_number(
        self, condition: All, field: str, limit: int, after: Row | None, *, descending: bool
    ) -> list[Row]:
        rows: list[Row] = []
        valued = after is None or after.value is not None
        if after is not None and isinstance(after.value, int | float):
            level = predicate.both(condition, _equal(field, after.value))
            rows = await self._level(level, field, limit, after, descending=descending)
        if valued and len(rows) < limit:
            last = None if after is None else after.value
            rest = (
                condition
                if last is None
                else predicate.both(condition, _behind(field, last, descending))
            )
            rows += await self._climb(rest, field, limit - len(rows), descending=descending)
        if field == "happened" and len(rows) < limit:
            bare = predicate.both(condition, Empty(field))
            start = None if valued else after
            rows += await self._level(bare, field, limit - len(rows), start, descending=descending)
        return rows

    async def _climb(
        self, condition: All, field: str, limit: int, *, descending: bool
    ) -> list[Row]:
        """The first rows by a number; the last number is asked for again if it was cut."""
        found = await self._scroll(condition, limit, Sort(field, descending), [*_ROW, field])
        rows = [_row(point, field) for point in found]
        rows.sort(key=_place, reverse=descending)
        if len(rows) == limit:
            last = rows[-1].value
            rows = [row for row in rows if row.value != last]
            assert isinstance(last, int | float)  # noqa: S101 - it was ordered by
            level = predicate.both(condition, _equal(field, last))
            rows += await self._level(level, field, limit - len(rows), None, descending=descending)
        return rows

    async def _level(
        self, condition: All, field: str, limit: int, after: Row | None, *, descending: bool
    ) -> list[Row]:
        """Rows of one value, in the order in which they were written."""
        start = None if after is None else after.revision + (-1 if descending else 1)
        found = await self._scroll(
            condition, limit, Sort("revision", descending, start), [*_ROW, field]
        )
        return [_row(point, field) for point in found]

    async def _by_text(
        self, condition: All, field: str, limit: int, after: Row | None, *, descending: bool
    ) -> list[Row]:
        """Values are known with their numbers, so whole ones are taken until it is enough."""
        rows: list[Row] = []
        last = None if after is None else str(after.value)
        if last is not None:
            level = predicate.both(condition, OneOf(field, (last,)))
            rows = await self._level(level, field, limit, after, descending=descending)
        counts = await self._facet(field, condition) if len(rows) < limit else {}
        values = sorted(counts, reverse=descending)
        if last is not None:
            values = [value for value in values if (value < last if descending else value > last)]
        while values and len(rows) < limit:
            taken, room = [values.pop(0)], limit - len(rows)
            while (
                values and counts[taken[0]] <= room and sum(map(counts.__getitem__, taken)) < room
            ):
                taken.append(values.pop(0))
            rows += await self._values(condition, field, taken, room, descending=descending)
        return rows[:limit]

    async def _values(
        self, condition: All, field: str, values: Sequence[str], limit: int, *, descending: bool
    ) -> list[Row]:
        """Rows of some values in order; all of them are small, except perhaps the last."""
        rows: list[Row] = []
        if len(values) > 1:
            small = predicate.both(condition, OneOf(field, tuple(values[:-1])))
            found = await self._scroll(small, limit, None, [*_ROW, field])
            rows = sorted((_row(point, field) for point in found), key=_place, reverse=descending)
        level = predicate.both(condition, OneOf(field, (values[-1],)))
        room = limit - len(rows)
        if room > 0:
            rows += await self._level(level, field, room, None, descending=descending)
        return rows


_ROW = ["ref", "revision"]
_score = attrgetter("score")


def _without(condition: All, folded: set[str]) -> All:
    if not folded:
        return condition
    return predicate.both(condition, Not(OneOf("shows", tuple(sorted(folded)))))


def _named(values: Mapping[str, int]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for text, number in values.items():
        name = "=".join(predicate.untag(text))
        counts[name] = counts.get(name, 0) + number
    return counts


def _equal(field: str, value: float) -> Condition:
    return Between(field, gte=value, lte=value)


def _behind(field: str, value: str | float, descending: bool) -> Condition:  # noqa: FBT001
    assert not isinstance(value, str)  # noqa: S101 - texts are ordered elsewhere
    return Between(field, lt=value) if descending else Between(field, gt=value)


def _row(point: Point, field: str) -> Row:
    ref = points.ref(point.fields["ref"])
    return Row(ref, point.fields["revision"], point.fields.get(field))


def _place(row: Row) -> tuple[Any, int]:
    return row.value, row.revision


def _pinned(point: Point) -> Ref:
    return points.ref(point.fields["ref"]).pinned(point.fields["revision"])
