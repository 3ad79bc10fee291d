"""Which memories a search is about, as a caller says it, and as it goes over the wire."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TypedDict, cast

from blackboard.clock import now
from blackboard.errors import InvalidError
from blackboard.messages import Memory
from blackboard.search import Filter
from blackboard.subjects import Ref

RefLike = Ref | Memory | str
Names = str | list[str] | tuple[str, ...] | None
"""One, several of which any will do, or None for all."""
Tags = Mapping[str, str | list[str] | tuple[str, ...]]
Moment = datetime | timedelta | None
"""A time with time zone, or so long ago."""


class Conditions(TypedDict, total=False):
    """Which memories; all that are given must hold, and of several values any will do.

    Attributes:
        topic: A pattern.
        agent: Who wrote the newest revision.
        access: Labels.
        session: Sessions.
        user: Data subjects.
        kind: Kinds.
        tags: By name, the value or values; every name given must match.
        since: Stored at or after; a time with time zone, or a timedelta ago.
        until: Stored at or before.
        happened_since: Happened at or after; memories without `happened` are left out.
        happened_until: Happened at or before.
        min_priority: At least.
        sources: Made from any of these, whatever their revision.
        before: Leave out what was written at this revision, or the memory's, and later.
    """

    topic: str | None
    agent: Names
    access: Names
    session: Names
    user: Names
    kind: Names
    tags: Tags | None
    since: Moment
    until: Moment
    happened_since: Moment
    happened_until: Moment
    min_priority: float | None
    sources: Sequence[RefLike] | RefLike | None
    before: RefLike | int | None


def filter_of(where: Conditions, before: int | None) -> Filter:
    """The filter that conditions stand for.

    Args:
        where: As the caller gave them.
        before: Their `before` as a revision.

    Raises:
        InvalidError: One of them is unknown or breaks a rule; the text names it.
    """
    unknown = where.keys() - Conditions.__annotations__.keys()
    if unknown:
        known = ", ".join(Conditions.__annotations__)
        raise InvalidError(f"unknown condition {min(unknown)!r}; there are {known}")
    topic, least = where.get("topic"), where.get("min_priority")
    if topic is not None and not isinstance(topic, str):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
        raise InvalidError(f"topic={topic!r} must be a pattern")
    if least is not None and not isinstance(least, int | float):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidError(f"min_priority={least!r} must be a number")
    chosen = Filter(
        topic=topic,
        agents=_names("agent", where.get("agent")),
        access=_names("access", where.get("access")),
        sessions=_names("session", where.get("session")),
        users=_names("user", where.get("user")),
        kinds=_names("kind", where.get("kind")),
        tags=_tags(where.get("tags")),
        min_priority=least,
        since=_moment("since", where.get("since")),
        until=_moment("until", where.get("until")),
        happened_since=_moment("happened_since", where.get("happened_since")),
        happened_until=_moment("happened_until", where.get("happened_until")),
        sources=_sources(where.get("sources")),
        before=before,
    )
    chosen.check()
    return chosen


def to_ref(ref: RefLike) -> Ref:
    """A reference, however it is given.

    Raises:
        InvalidError: It is none.
    """
    if isinstance(ref, Ref):
        return ref
    if isinstance(ref, Memory):
        return ref.ref
    if isinstance(ref, str):  # pyright: ignore[reportUnnecessaryIsInstance] - callers may be untyped
        return Ref.parse(ref)
    raise InvalidError(f"{ref!r} is no reference; pass a Ref, a Memory or its text")


def several(refs: Sequence[RefLike]) -> Sequence[RefLike]:
    """References, if they are several of something.

    Raises:
        InvalidError: They are not.
    """
    if not isinstance(refs, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidError(f"{refs!r} is no list of references; pass [ref, …]")
    return refs


def to_tags(tags: Mapping[str, str] | None) -> dict[str, str] | None:
    """Tags of a memory, however they are given; what they hold is checked with the memory.

    Raises:
        InvalidError: They are no mapping.
    """
    if tags is None:
        return None
    if not isinstance(tags, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidError(f"tags={tags!r} must be a mapping of names to values")
    return dict(tags)


def _sources(refs: Sequence[RefLike] | RefLike | None) -> tuple[Ref, ...]:
    if refs is None:
        return ()
    given = (refs,) if isinstance(refs, Ref | Memory | str) else several(refs)
    return tuple(to_ref(ref).unpinned for ref in given)


def _names(what: str, given: object) -> tuple[str, ...]:
    # Callers may be untyped.
    if given is None:
        return ()
    several = cast("Sequence[object]", given if isinstance(given, list | tuple) else (given,))
    names = tuple(name for name in several if isinstance(name, str))
    if len(names) < len(several):
        raise InvalidError(f"{what}={given!r} must be str, or a list of them")
    if not names:
        raise InvalidError(f"{what}={given!r} selects nothing; leave it out for all")
    return names


def _tags(
    given: Tags | None,
) -> dict[str, tuple[str, ...]]:
    if given is not None and not isinstance(given, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidError(f"tags={given!r} must be a mapping of names to values")
    for name in given or {}:
        if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidError(f"the name of a tag must be str, not {name!r}")
    return {name: _names(f"tag {name}", values) for name, values in (given or {}).items()}


def _moment(what: str, given: Moment) -> datetime | None:
    if given is None or isinstance(given, datetime):
        return given
    if not isinstance(given, timedelta):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidError(f"{what}={given!r} must be a time or a timedelta")
    try:
        return now() - given
    except OverflowError as error:
        raise InvalidError(f"{what}={given!r} is too long ago") from error
