"""What is due, and how a group is cut into summaries: decided from what is known, without asking.

Every replica that has seen the same of the stream cuts a group alike, from its oldest memory on. A
summary's id is made from the group and the first of its sources, so whoever writes it second finds
it there.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import NamedTuple

from blackboard.codec import canonical
from blackboard.consolidator.groups import AGENT, Candidate, Groups, Key
from blackboard.consolidator.policy import Policy
from blackboard.subjects import Ref, derived_id

SUMMARY_TOKENS = 200
"""Of one summary: what MiniLM sees of a text, and what a search returns in one piece."""
FEWEST_TOKENS = 24
"""A shorter one would be a name and a few words."""
MAX_SOURCES = 400
"""Of one summary; a batch has a check for each, and its references have to fit into a memory."""
MAX_BYTES = 8 * 1024 * 1024
"""Of the sources of one summary, which may all have to be written back at once."""


class Due(NamedTuple):
    """A group that has to be condensed, and why.

    Attributes:
        key: The group.
        members: That are old enough, the oldest first.
        why: `count`, `bytes` or `age`.
    """

    key: Key
    members: list[Candidate]
    why: str


def due(
    groups: Groups, moment: datetime, *, now: bool = False, only: Key | None = None
) -> Iterator[Due]:
    """The groups that are over a threshold at a moment, in the order of their names.

    Args:
        groups: Of the board.
        moment: The time.
        now: Whatever there is two of, however young.
        only: Of this group alone.
    """
    for key in [only] if only is not None else sorted(groups.keys(), key=str):
        policy = groups.policy(key)
        least = 2 if now or policy.bytes is not None or policy.age is not None else policy.count
        if policy.bytes is None and groups.size(key) < least:
            continue
        members = old_enough(groups.members(key), policy, moment, now=now)
        why = _reason(members, policy, moment)
        if why is None and now and len(members) > 1:
            why = "now"
        if why is not None:
            yield Due(key, members, why)


def old_enough(
    members: Sequence[Candidate], policy: Policy, moment: datetime, *, now: bool = False
) -> list[Candidate]:
    """The members that a policy lets be condensed at a moment."""
    return [
        one
        for one in members
        if (now or one.stored <= moment - policy.older_than)
        and (one.expires is None or one.expires > moment)
    ]


def parts(members: Sequence[Candidate], policy: Policy) -> list[list[Candidate]]:
    """Cut a group into what makes one summary each, from the front; what is left joins the last."""
    found: list[list[Candidate]] = []
    room = SUMMARY_TOKENS * policy.ratio
    tokens, size = 0.0, 0
    for one in members:
        full = tokens + one.tokens / 2 > room or size + one.bytes > MAX_BYTES
        if not found or full or len(found[-1]) == MAX_SOURCES:
            found.append([])
            tokens, size = 0.0, 0
        found[-1].append(one)
        tokens += one.tokens
        size += one.bytes
    if len(found) > 1 and tokens < room / 2:
        joined = found[-2] + found[-1]
        if len(joined) <= MAX_SOURCES and sum(one.bytes for one in joined) <= MAX_BYTES:
            found[-2:] = [joined]
    return found


def summary_of(key: Key, first: Ref) -> Ref:
    """The reference of the summary that begins with a source, which is pinned."""
    named = [key.access, key.topic, key.session, key.user, str(first)]
    return Ref(AGENT, key.topic, derived_id(canonical([AGENT, *named])))


def length(tokens: int, policy: Policy) -> int:
    """Tokens that the summary of so many may have."""
    return max(FEWEST_TOKENS, int(tokens / policy.ratio))


def _reason(members: Sequence[Candidate], policy: Policy, moment: datetime) -> str | None:
    if len(members) >= policy.count:
        return "count"
    if policy.bytes is not None and sum(one.bytes for one in members) >= policy.bytes:
        return "bytes"
    if policy.age is not None and len(members) > 1 and moment - members[0].stored >= policy.age:
        return "age"
    return None
