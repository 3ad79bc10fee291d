"""The contract of an index as plain Python over a dictionary: slow, and easy to believe."""

from collections.abc import Iterable, Sequence
from datetime import datetime

import numpy as np

from blackboard.recall.index import Entry, Row, Vectors, Where
from blackboard.search import CountBy, Filter, Grant
from blackboard.subjects import Pattern, Ref


def micros(moment: datetime) -> int:
    return round(moment.timestamp() * 1_000_000)


class ShelfIndex:
    """What was applied, by reference."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self.held: dict[Ref, Entry] = {}
        self.apply(list(entries), [], 0)

    def apply(self, entries: Sequence[Entry], gone: Sequence[Ref], position: int) -> None:
        for ref in gone:
            if ref in self.held and self.held[ref].revision <= position:
                del self.held[ref]
        for entry in entries:
            if entry.ref not in self.held or self.held[entry.ref].revision <= entry.revision:
                self.held[entry.ref] = entry

    def visible(self, where: Where) -> list[Entry]:
        return [entry for entry in self.held.values() if may_be_found(entry, where)]

    def search(self, vectors: Vectors, where: Where, part: str) -> dict[str, float]:
        """By what it shows, the best score of what may be found."""
        best: dict[str, float] = {}
        for entry in self.visible(where):
            if part == "words":
                if not set(entry.vectors.words.indices) & set(vectors.words.indices):
                    continue
                score = 0.0
            else:
                score = float(np.dot(getattr(entry.vectors, part), getattr(vectors, part)))
            key = str(entry.shows or entry.ref)
            best[key] = max(score, best.get(key, score))
        return best

    def select(self, where: Where, order: str) -> list[Row]:
        field, descending = order.removeprefix("-"), order.startswith("-")
        rows = [Row(e.ref, e.revision, value(e, field)) for e in self.visible(where)]
        rows.sort(key=lambda row: row.revision, reverse=descending)
        there = [row for row in rows if row.value is not None]
        there.sort(
            key=lambda row: (
                row.value or 0 if field != "agent" and field != "topic" else str(row.value)
            ),
            reverse=descending,
        )  # type: ignore[arg-type,return-value]
        return there + [row for row in rows if row.value is None]

    def count(self, where: Where, by: Sequence[CountBy]) -> tuple[int, dict[str, dict[str, int]]]:
        seen = self.visible(where)
        counts: dict[str, dict[str, int]] = {}
        for what in by:
            counts[what] = {}
            for entry in seen:
                for name in named(entry, what):
                    counts[what][name] = counts[what].get(name, 0) + 1
        return len(seen), counts


def value(entry: Entry, field: str) -> str | float | int | None:
    match field:
        case "stored":
            return micros(entry.stored)
        case "happened":
            return None if entry.happened is None else micros(entry.happened)
        case "priority":
            return entry.priority
        case "agent":
            return entry.author
        case _:
            return entry.ref.topic


def named(entry: Entry, what: CountBy) -> list[str]:
    match what:
        case "agent":
            return [entry.author]
        case "topic":
            return [entry.ref.topic]
        case "session":
            return [] if entry.session is None else [entry.session]
        case "user":
            return [] if entry.user is None else [entry.user]
        case "kind":
            return [entry.kind]
        case "access":
            return [entry.access]
        case "tag":
            return [f"{name}={text}" for name, text in entry.tags.items()]


def may_be_found(entry: Entry, where: Where) -> bool:
    if entry.expires is not None and entry.expires <= where.now:
        return False
    if where.grants is not None and not any(granted(entry, grant) for grant in where.grants):
        return False
    return matches(entry, where.filter)


def granted(entry: Entry, grant: Grant) -> bool:
    return (
        grant.access in ("*", entry.access)
        and Pattern.parse(grant.topic).matches(entry.ref.topic)
        and grant.user in (None, entry.user)
    )


def matches(entry: Entry, asked: Filter) -> bool:
    lists = (
        (asked.agents, entry.author),
        (asked.access, entry.access),
        (asked.sessions, entry.session),
        (asked.users, entry.user),
        (asked.kinds, entry.kind),
    )
    return (
        all(not wanted or have in wanted for wanted, have in lists)
        and (asked.topic is None or Pattern.parse(asked.topic).matches(entry.ref.topic))
        and all(entry.tags.get(name) in texts for name, texts in asked.tags.items())
        and (asked.min_priority is None or entry.priority >= asked.min_priority)
        and within(entry.stored, asked.since, asked.until)
        and within(entry.happened, asked.happened_since, asked.happened_until)
        and (not asked.sources or bool(set(asked.sources) & set(entry.sources)))
        and (asked.before is None or entry.revision < asked.before)
    )


def within(moment: datetime | None, since: datetime | None, until: datetime | None) -> bool:
    if moment is None:
        return since is None and until is None
    return (since is None or moment >= since) and (until is None or moment <= until)
