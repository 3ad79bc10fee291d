"""What a board holds under each rule of its retention policy, and what the rule has removed."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime

import msgspec

from blackboard.board import Blackboard
from blackboard.cli.output import clean, say, table
from blackboard.clock import now
from blackboard.errors import DeniedError
from blackboard.keeping import policy_of
from blackboard.messages import Memory
from blackboard.retention import Removed, Retention, Rule, Tally, tally_subject
from blackboard.subjects import ANY_AGENT


class HeldByRule(msgspec.Struct, kw_only=True):
    """What lies under one rule."""

    topics: tuple[str, ...]
    labels: tuple[str, ...]
    """Empty for all."""
    personal: bool
    """It holds for personal labels."""
    max_age_s: float | None
    max_per_session: int | None
    before: str
    memories: int = 0
    oldest: datetime | None = None
    """When the newest revision of the one was stored that was written last the longest ago."""
    shielded: int = 0
    """Those that stay for their priority."""
    over: int = 0
    """Those that are over its age, or too many, and are not gone yet."""
    ended: int | None = None
    """Those that ended by themselves; None when this agent may not see it."""
    removed: int | None = None
    """Those that the steward took away."""


class Held(msgspec.Struct):
    """What the policy of a board holds."""

    policy: str
    """Its digest."""
    rules: list[HeldByRule]
    unlimited: int
    """Memories that no rule holds for; they stay."""


async def held(board: Blackboard, memories: Sequence[Memory]) -> Held | None:
    """Count live memories by rule; None when the board has no policy."""
    policy = await policy_of(board.session.connection, board.name)
    if policy is None:
        return None
    rows = {rule: _row(rule, policy) for rule in policy.rules}
    sessions: dict[Rule, Counter[str]] = {rule: Counter() for rule in rows}
    unlimited = 0
    for memory in memories:
        rule = policy.rule_of(memory.topic, memory.access)
        if rule is None:
            unlimited += 1
        else:
            _count(rows[rule], memory, policy, rule)
            if memory.session is not None and not policy.shields(memory.access, memory.priority):
                sessions[rule][memory.session] += 1
    for rule, counts in sessions.items():
        if rule.max_per_session is not None:
            rows[rule].over += sum(max(0, one - rule.max_per_session) for one in counts.values())
    await _count_removed(board, rows)
    return Held(policy.digest, list(rows.values()), unlimited)


def _row(rule: Rule, policy: Retention) -> HeldByRule:
    return HeldByRule(
        topics=rule.topics,
        labels=rule.labels,
        personal=any(rule.meets(label) for label in policy.personal),
        max_age_s=rule.max_age_s,
        max_per_session=rule.max_per_session,
        before=rule.before,
    )


def _count(row: HeldByRule, memory: Memory, policy: Retention, rule: Rule) -> None:
    row.memories += 1
    if memory.stored is None:
        return
    if row.oldest is None or memory.stored < row.oldest:
        row.oldest = memory.stored
    if policy.shields(memory.access, memory.priority):
        row.shielded += 1
    elif rule.max_age is not None and memory.stored <= now() - rule.max_age:
        row.over += 1


async def _count_removed(board: Blackboard, rows: dict[Rule, HeldByRule]) -> None:
    try:
        subject = tally_subject(board.name, ANY_AGENT)
        tally = (await board.log.record_at(subject, Tally))[0] or Tally()
    except DeniedError:
        return
    for rule, row in rows.items():
        removed = tally.removed.get(rule.key, Removed())
        row.ended, row.removed = removed.ended, removed.removed


def print_held(found: Held) -> None:
    """Print it as a table."""
    table(
        ["retention", "age", "a session", "before", "memories", "over", "ended", "removed"],
        [
            [
                name_of(row.topics, row.labels),
                age_of(row.max_age_s) or "",
                row.max_per_session or "",
                row.before if row.max_age_s or row.max_per_session else "keep",
                row.memories,
                row.over,
                "" if row.ended is None else row.ended,
                "" if row.removed is None else row.removed,
            ]
            for row in found.rules
        ],
        right=["age", "a session", "memories", "over", "ended", "removed"],
    )
    if found.unlimited:
        say(f"{found.unlimited} memories under no rule: they stay")


def name_of(topics: Sequence[str], labels: Sequence[str]) -> str:
    """The topics and labels of a rule, for people."""
    under = f" ({', '.join(labels)})" if labels else ""
    return clean(f"{', '.join(topics)}{under}")


def age_of(seconds: float | None) -> str | None:
    """An age as it is written in a policy: the largest unit that it is a whole number of."""
    if seconds is None:
        return None
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds % size == 0:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:g}s"
