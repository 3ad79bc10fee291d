"""Rights as the broker's filters: what an agent may read, subject by subject.

The same filters are compiled into the broker's permissions, asked for by the client, and held
against every request by the steward, so the three cannot disagree.
"""

from collections.abc import Callable, Iterable, Sequence

import msgspec

from blackboard.access.rights import Grant, Rights
from blackboard.subjects import ONCE, SHARED, Pattern


def reads(rights: Rights) -> tuple[str, ...]:
    """The memories of every data subject that may be read: what consumers are filtered by."""
    open_to_all = [grant for grant in rights.read if grant.user is None]
    found = [
        Pattern(grant.topic).subject(rights.board, access=grant.access) for grant in open_to_all
    ]
    found += [f"mem.{rights.board}.{label}.*.{ONCE}.>" for label in _labels(open_to_all)]
    return widest(found)


def own(rights: Rights) -> tuple[str, ...]:
    """The memories that it wrote itself, or may have."""
    found = [
        Pattern(grant.topic).subject(rights.board, access=grant.access, agent=rights.agent)
        for grant in rights.write
    ]
    found += [
        f"mem.{rights.board}.{label}.{rights.agent}.{ONCE}.>" for label in _labels(rights.write)
    ]
    return widest(found)


def claims(rights: Rights) -> tuple[str, ...]:
    """The records that may be read: those under its labels, and all of its own."""
    return widest((*leases(rights), f"claim.{rights.board}.{SHARED}.{rights.agent}.>"))


def leases(rights: Rights) -> tuple[str, ...]:
    """The records under its labels, whoever wrote them."""
    labels = _labels([*rights.read, *rights.write])
    return tuple(f"claim.{rights.board}.{label}.*.>" for label in labels)


def served(rights: Rights) -> tuple[tuple[str, str], ...]:
    """The memories of single data subjects, which only services can tell apart: filter and user."""
    found: dict[tuple[str, str], None] = {}
    for grant in rights.read:
        if grant.user is not None:
            wanted = Pattern(grant.topic).subject(rights.board, access=grant.access)
            found[wanted, grant.user] = None
    return tuple(found)


def by_broker(rights: Rights) -> Rights:
    """What of the rights the broker itself answers reads for: all but what is served."""
    return _under(rights, lambda label: label not in rights.served)


def by_steward(rights: Rights) -> Rights:
    """What of the rights is read through the steward only, because its label is served."""
    return _under(rights, lambda label: label in rights.served)


def _under(rights: Rights, chosen: Callable[[str], bool]) -> Rights:
    return msgspec.structs.replace(
        rights,
        read=tuple(grant for grant in rights.read if chosen(grant.access)),
        write=tuple(grant for grant in rights.write if chosen(grant.access)),
    )


def _labels(grants: Iterable[Grant]) -> list[str]:
    return list(dict.fromkeys(grant.access for grant in grants))


def intersection(one: str, other: str) -> str | None:
    """The filter that selects what both of two filters select; None when nothing can be both.

    `*` is one token, a last `>` one or more, as at the broker.
    """
    left, right = one.split("."), other.split(".")
    found: list[str] = []
    for place in range(max(len(left), len(right))):
        a = left[place] if place < len(left) else None
        b = right[place] if place < len(right) else None
        if a == ">":
            return ".".join([*found, *right[place:]]) if b is not None else None
        if b == ">":
            return ".".join([*found, *left[place:]]) if a is not None else None
        if a is None or b is None or (a != b and "*" not in (a, b)):
            return None
        found.append(b if a == "*" else a)
    return ".".join(found)


def covers(wide: str, narrow: str) -> bool:
    """Whether a filter selects everything that another does."""
    return _covers(wide.split("."), narrow.split("."))


def _covers(wide: Sequence[str], narrow: Sequence[str]) -> bool:
    for place, part in enumerate(wide):
        if place == len(narrow):
            return False
        if part == ">":
            return True
        if part != narrow[place] and (part != "*" or narrow[place] == ">"):
            return False
    return len(wide) == len(narrow)


def widest(filters: Iterable[str]) -> tuple[str, ...]:
    """The same selection without filters that others cover."""
    unique = {one: one.split(".") for one in filters}
    return tuple(
        one
        for one, parts in unique.items()
        if not any(_covers(other, parts) for other in unique.values() if other is not parts)
    )


def separate(filters: Iterable[str]) -> tuple[str, ...]:
    """The same filters without those of which an earlier one selects a part, but not all.

    The broker refuses a consumer with such filters. Rights are written so that only results of
    `once` are left out, where a right begins with a wildcard that takes in some of them.
    """
    kept: list[str] = []
    for one in filters:
        if all(intersection(one, other) in (None, other) for other in kept):
            kept = [other for other in kept if not covers(one, other)]
            kept.append(one)
    return tuple(kept)


def allowed(wanted: str, filters: Iterable[str]) -> tuple[str, ...]:
    """What a filter selects of what the given filters do."""
    return widest(both for one in filters if (both := intersection(wanted, one)) is not None)
