"""What may be found, as conditions on the fields of a point; the engines only spell them.

Rights, filter and expiry become one condition here, so that no engine can forget one of them and
none can apply it behind the limit. A topic is stored twice: whole, for patterns without wildcard, and
token by token with its place (`0:docs`, `1:section`), so that every pattern is an intersection of
exact values, which both engines look up in an index instead of scanning.
"""

import hashlib
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

import msgspec

from blackboard.recall.index import Where
from blackboard.search import Filter, Grant
from blackboard.subjects import Pattern

MAX_VALUE = 256
"""Characters of a value that are kept as they are; what is longer is kept as its digest."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class OneOf(msgspec.Struct, frozen=True):
    """The field, or an element of it, is one of the values."""

    field: str
    values: tuple[str, ...] | tuple[int, ...]


class Between(msgspec.Struct, frozen=True):
    """The field is there and lies in the range."""

    field: str
    gte: float | None = None
    gt: float | None = None
    lte: float | None = None
    lt: float | None = None


class Empty(msgspec.Struct, frozen=True):
    """The field is not there."""

    field: str


class All(msgspec.Struct, frozen=True):
    """Every part holds; no parts hold always."""

    parts: "tuple[Condition, ...]" = ()


class Some(msgspec.Struct, frozen=True):
    """At least one part holds; no parts never hold."""

    parts: "tuple[Condition, ...]" = ()


class Not(msgspec.Struct, frozen=True):
    """The part does not hold."""

    part: "Condition"


Condition = OneOf | Between | Empty | All | Some | Not


def compile(where: Where) -> All | None:  # noqa: A001 - what it does, as in `re.compile`
    """One condition for the filter, the rights and the time.

    Returns:
        None when nothing can match, so that no engine has to be asked.

    Raises:
        InvalidError: The topic of the filter, or of a grant, is no pattern.
    """
    parts = [Not(Between("expires", lte=microseconds(where.now))), *_asked(where.filter)]
    if where.grants is not None:
        if not where.grants:
            return None
        rights = [_right(grant) for grant in where.grants]
        if All() not in rights:
            parts.append(rights[0] if len(rights) == 1 else Some(tuple(rights)))
    # An empty alternative is spelled differently by every engine, and never reaches one.
    return None if Some() in parts else All(tuple(parts))


def both(condition: All, *more: Condition) -> All:
    """The condition and some more."""
    return All((*condition.parts, *more))


def microseconds(moment: datetime) -> int:
    """Microseconds since 1970, exactly; what times are indexed as.

    A time without zone is taken as UTC.
    """
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    since = aware - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def kept(value: str) -> str:
    """A value as it is indexed: itself, or when long the beginning and the digest of it."""
    if len(value) <= MAX_VALUE:
        return value
    digest = hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{value[: MAX_VALUE - 65]}…{digest}"


def tag(name: str, value: str) -> str:
    """A tag as one value; the length of its name keeps `a=b` + `c` from being `a` + `b=c`."""
    short = kept(name)
    return f"{len(short)}:{short}={kept(value)}"


def untag(text: str) -> tuple[str, str]:
    """Take apart what `tag` made."""
    length, _, rest = text.partition(":")
    return rest[: int(length)], rest[int(length) + 1 :]


def places(topic: str) -> list[str]:
    """The tokens of a topic with their places."""
    return [f"{place}:{token}" for place, token in enumerate(topic.split("."))]


def selects(pattern: str) -> list[Condition]:
    """What a topic's fields have to be for the pattern to match it; agrees with `Pattern.matches`.

    Raises:
        InvalidError: It is no pattern.
    """
    tokens = Pattern.parse(pattern).text.split(".")
    if not {"*", ">"} & set(tokens):
        return [OneOf("topic", (pattern,))]
    rest = tokens[-1] == ">"
    fixed = tokens[:-1] if rest else tokens
    found: list[Condition] = [
        OneOf("places", (f"{place}:{token}",)) for place, token in enumerate(fixed) if token != "*"
    ]
    if not rest:
        found.append(OneOf("depth", (len(fixed),)))
    elif fixed and fixed[-1] == "*":
        # A token that is fixed says by its place how deep the topic is; a last star does not.
        found.append(Between("depth", gte=len(fixed)))
    return found


def _asked(filter: Filter) -> Iterable[Condition]:  # noqa: A002
    if filter.topic is not None:
        yield from selects(filter.topic)
    named: tuple[tuple[str, Sequence[str]], ...] = (
        ("agent", filter.agents),
        ("access", filter.access),
        ("session", filter.sessions),
        ("user", filter.users),
        ("kind", filter.kinds),
        ("sources", [str(source.unpinned) for source in filter.sources]),
    )
    for field, values in named:
        if values:
            yield OneOf(field, tuple(kept(value) for value in values))
    for name, values in filter.tags.items():
        yield OneOf("tags", tuple(tag(name, value) for value in values)) if values else Some()
    yield from _ranges(filter)


def _ranges(filter: Filter) -> Iterable[Condition]:  # noqa: A002
    if filter.min_priority is not None:
        yield Between("priority", gte=filter.min_priority)
    spans = (
        ("stored", filter.since, filter.until),
        ("happened", filter.happened_since, filter.happened_until),
    )
    for field, since, until in spans:
        if since is not None or until is not None:
            yield Between(
                field,
                gte=None if since is None else microseconds(since),
                lte=None if until is None else microseconds(until),
            )
    if filter.before is not None:
        yield Between("revision", lt=filter.before)


def _right(grant: Grant) -> All:
    parts = selects(grant.topic)
    if grant.access != "*":
        parts.append(OneOf("access", (grant.access,)))
    if grant.user is not None:
        parts.append(OneOf("user", (kept(grant.user),)))
    return All(tuple(parts))
