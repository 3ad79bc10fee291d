"""Sessions that have more memories than their rule allows, found without a list of all of them.

Every memory is counted where the hash of its session points; a place that has more than the rule
allows is suspected, and what lies there is read once more and counted exactly. So a million
sessions take 4 MiB here, and a collision costs a reading and nothing else.
"""

import zlib
from array import array
from collections.abc import Mapping
from typing import NamedTuple

from blackboard.envelope import is_expired
from blackboard.jetstream import Message, Start, follow
from blackboard.lineage import Gist, gist_of
from blackboard.log import Log
from blackboard.messages import Memory
from blackboard.retention import Retention, Rule
from blackboard.subjects import Ref

PLACES = 1 << 20
COLLECTED = 50_000
"""Memories whose references are held at once; of what is more, the oldest go first."""

Session = tuple[str, str]
"""A rule, by its key, and a session."""


class Surplus(NamedTuple):
    """A memory that is one too many: by which rule, and at which revision."""

    ref: Ref
    rule: Rule
    revision: int


class Sessions:
    """The sessions of one board.

    Args:
        log: The board.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self._subject = f"mem.{log.board}.>"
        self._policy = Retention()
        self._counts = array("I")
        self._position = 0
        self._suspects: dict[int, Rule] = {}

    async def count(self, policy: Retention) -> None:
        """Count what was stored since the last time, or all of it under another policy.

        Raises:
            UnavailableError: The broker does not answer.
        """
        if policy != self._policy:
            self._policy, self._position = policy, 0
            self._counts = array("I", bytes(array("I").itemsize * PLACES))
            self._suspects.clear()
        if not any(rule.max_per_session for rule in policy.rules):
            return
        following = await self._log.reads.next_after(self._subject, self._position + 1)
        if following is None:
            return
        start = Start.after(self._position)
        async with follow(self._log.connection, self._log.stream, self._subject, start) as follower:
            while follower.pending:
                message = await follower.step()
                if message is None:
                    continue
                self._position = message.sequence
                place = self._place(message)
                if place is not None:
                    rule, (key, session), _, _ = place
                    self._note(rule, _hash(key, session))

    def suspected(self, *, personal: bool) -> bool:
        """Whether there is anything to look at.

        Args:
            personal: Also by rules that hold for personal labels.
        """
        return any(personal or not self._is_personal(rule) for rule in self._suspects.values())

    async def surplus(self, *, personal: bool) -> list[Surplus]:
        """What is too much in the suspected sessions, the oldest first.

        Raises:
            UnavailableError: The broker does not answer.
        """
        wanted = {
            place: rule
            for place, rule in self._suspects.items()
            if personal or not self._is_personal(rule)
        }
        members: dict[Session, dict[Ref, int]] = {}
        more: dict[Session, int] = {}
        collected = 0
        async with follow(
            self._log.connection, self._log.stream, self._subject, Start.newest()
        ) as follower:
            while follower.pending:
                message = await follower.step()
                place = None if message is None else self._place(message)
                if place is None or _hash(*place[1]) not in wanted:
                    continue
                _, session, memory, gist = place
                if is_expired(memory) or self._policy.shields(memory.access, gist.priority):
                    continue
                if collected >= COLLECTED and session in members:
                    more[session] = more.get(session, 0) + 1
                elif collected < COLLECTED:
                    ref = memory.ref.unpinned
                    own = members.setdefault(session, {})
                    collected += own.pop(ref, None) is None
                    own[ref] = memory.revision
        for place in wanted:
            del self._suspects[place]
            self._counts[place] = 0
        return self._too_many(members, more)

    def _too_many(
        self, members: Mapping[Session, dict[Ref, int]], more: Mapping[Session, int]
    ) -> list[Surplus]:
        """What has to go of the sessions that were read; what stays is counted again."""
        rules = {rule.key: rule for rule in self._policy.rules}
        found: list[Surplus] = []
        for (key, session), own in members.items():
            rule = rules[key]
            count = len(own) + more.get((key, session), 0)
            over = max(0, count - (rule.max_per_session or 0))
            found += [Surplus(ref, rule, revision) for ref, revision in list(own.items())[:over]]
            # All of it: what cannot go yet keeps the session suspected.
            self._note(rule, _hash(key, session), count)
        return found

    def _note(self, rule: Rule, place: int, count: int = 1) -> None:
        self._counts[place] += count
        if self._counts[place] > (rule.max_per_session or 0):
            self._suspects[place] = rule

    def _place(self, message: Message) -> tuple[Rule, Session, Memory, Gist] | None:
        """The rule and the session that a message counts for; None when for none."""
        if b'"session"' not in message.data:
            return None
        known = gist_of(message)
        if known is None or known[0].gone is not None or known[1].session is None:
            return None
        memory, gist = known
        rule = self._policy.rule_of(memory.topic, memory.access)
        if rule is None or rule.max_per_session is None:
            return None
        return rule, (rule.key, gist.session or ""), memory, gist

    def _is_personal(self, rule: Rule) -> bool:
        return any(rule.meets(label) for label in self._policy.personal)


def _hash(key: str, session: str) -> int:
    return zlib.crc32(f"{key}/{session}".encode()) % PLACES
