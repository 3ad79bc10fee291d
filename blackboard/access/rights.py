"""What one agent may do on one board: the document that every service decides by.

It is stored at subject `access.<board>.<agent>` of the stream `ACCESS`, newest per subject, and
says no more than the broker's permissions for the same agent: both are made from one policy.

Rights to a label include the results of `once` under it (topics `once.>`), which are nobody's in
particular and are read through the memories that show them. A right that is limited to a data
subject does not: such results name none. An agent may read what it wrote itself, as far as it may
still write there.
"""

from collections.abc import Iterable

import msgspec

from blackboard.access.identity import PROBE, SERVICES
from blackboard.access.patterns import meet, within
from blackboard.errors import DeniedError
from blackboard.messages import Memory
from blackboard.subjects import ONCE, Pattern

ANY = "*"
"""Every label."""
ONCE_TOPICS = f"{ONCE}.>"
RESERVED = SERVICES | {"operator", PROBE}
"""Names that no agent of a policy may have."""


class Grant(msgspec.Struct, frozen=True, omit_defaults=True):
    """One right: a label and a pattern of topics, of one data subject or of all.

    Attributes:
        access: A label, or `*` for all.
        topic: A pattern.
        user: To read memories of this data subject only; rights to write have none.
    """

    access: str = ANY
    topic: str = ">"
    user: str | None = None

    def covers(self, memory: Memory) -> bool:
        """Whether this right extends to a memory as it was read."""
        return self.holds(memory.access, memory.topic, memory.user)

    def holds(self, access: str | None, topic: str, user: str | None = None) -> bool:
        """Whether this right extends to a topic under a label (None: under any).

        Args:
            access: The label.
            topic: A topic, not a pattern.
            user: Of the memory; None for one that is about nobody.
        """
        return (
            (self.access == ANY or access in (None, self.access))
            and Pattern(self.topic).matches(topic)
            and self.user in (None, user)
        )

    def within(self, other: "Grant") -> bool:
        """Whether `other` grants all that this does; data subjects aside."""
        return other.access in (ANY, self.access) and within(self.topic, other.topic)

    def overlaps(self, other: "Grant") -> bool:
        """Whether some topic under some label is granted by both; data subjects aside."""
        labels = self.access == other.access or ANY in (self.access, other.access)
        return labels and meet(self.topic, other.topic) is not None


class Quota(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How much an agent may do; None is no limit but the broker's own.

    Attributes:
        message_bytes: Of one message, headers included.
        messages_per_s: Published, over ten seconds.
        connections: Open at once.
    """

    message_bytes: int | None = None
    messages_per_s: float | None = None
    connections: int | None = None


class Rights(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one agent may do on one board.

    Attributes:
        board: The board.
        agent: The agent.
        read: What it may read; what it wrote itself comes on top.
        write: What it may write, under its own name.
        handlers: Those of its handlers that have a durable consumer.
        served: Those of their labels under which the broker answers no reads: the steward does,
            after it has recorded them.
        quota: How much it may do.
        key: The public nkey by which the broker knows it.
        digest: Of the policy by which it got these rights.
        operator: Not restricted by topic: the command line, the steward, recall.
    """

    board: str
    agent: str
    read: tuple[Grant, ...] = ()
    write: tuple[Grant, ...] = ()
    handlers: tuple[str, ...] = ()
    served: tuple[str, ...] = ()
    quota: Quota = Quota()
    key: str = ""
    digest: str = ""
    operator: bool = False

    def may_read(self, access: str | None, topic: str, user: str | None = None) -> bool:
        """Whether it may read a topic under a label, whoever wrote there.

        Args:
            access: The label; None asks whether there is any.
            topic: A topic, not a pattern.
            user: The data subject of the memory; None for a memory that is about nobody.
        """
        return self.operator or any(
            grant.holds(access, topic, user) for grant in (*self.read, *_once(self.read))
        )

    def may_write(self, access: str | None, topic: str) -> bool:
        """Whether it may write a topic under a label (None: under any)."""
        return self.operator or any(
            grant.holds(access, topic) for grant in (*self.write, *_once(self.write))
        )

    def covers(self, memory: Memory) -> bool:
        """Whether it may read this memory: by a right to read, or as its writer."""
        own = memory.agent == self.agent and self.may_write(memory.access, memory.topic)
        return own or self.may_read(memory.access, memory.topic, memory.user)

    def readable(self, pattern: str) -> tuple[Grant, ...]:
        """What a consumer for `pattern` may be filtered by: labels and patterns, none overlapping.

        Rights that are limited to a data subject are not among them, since the broker cannot see
        whom a memory is about. Results of `once` are left out where one of the rights begins with a
        wildcard that takes in some of them: the broker refuses filters that overlap.

        Returns:
            Empty when nothing of it may be read.
        """
        if self.operator:
            return (Grant(ANY, pattern),)
        found = _met(pattern, (grant for grant in self.read if grant.user is None))
        for grant in _met(pattern, _once(self.read)):
            partly = any(
                grant.overlaps(other) and not (grant.within(other) or other.within(grant))
                for other in found
            )
            if not partly:
                found.append(grant)
        return _largest(found)

    def labels(self, topic: str) -> tuple[str, ...]:
        """The labels under which a topic may be read at the broker itself; `("*",)` for all.

        Those of rights that are limited to a data subject are not among them, nor served ones.
        """
        if self.operator:
            return (ANY,)
        found = {
            grant.access
            for grant in (*self.read, *_once(self.read))
            if grant.user is None
            and grant.access not in self.served
            and Pattern(grant.topic).matches(topic)
        }
        return (ANY,) if ANY in found else tuple(sorted(found))

    def check_read(self, access: str | None, topic: str, user: str | None = None) -> None:
        """Refuse what `may_read` does not allow.

        Raises:
            DeniedError: The text names the right that is missing.
        """
        if not self.may_read(access, topic, user):
            raise DeniedError(self._refusal("read", access, topic, user))

    def check_write(self, access: str | None, topic: str) -> None:
        """Refuse what `may_write` does not allow.

        Raises:
            DeniedError: The text names the right that is missing.
        """
        if not self.may_write(access, topic):
            raise DeniedError(self._refusal("write", access, topic, None))

    def _refusal(self, act: str, access: str | None, topic: str, user: str | None) -> str:
        label = "" if access is None else f" under label {access!r}"
        about = "" if user is None else f" about user {user!r}"
        users = sorted(
            {
                grant.user
                for grant in self.read
                if grant.user is not None and grant.holds(access, topic, grant.user)
            }
        )
        only = f" except about {', '.join(users[:5])}" if act == "read" and users else ""
        return (
            f"agent {self.agent!r} may not {act} topic {topic!r}{label}{about} on board "
            f"{self.board!r}: it has no such right{only}; add one to its roles in the access policy"
        )


def reserved_rights(board: str, name: str) -> Rights | None:
    """The rights of the command line, of a service or of the probe; None for other names.

    They are the same on every board and stand in no policy: only the credentials that the broker
    knows by these names may ask under them.
    """
    if name == PROBE:
        own = (Grant(PROBE),)
        return Rights(board=board, agent=name, read=own, write=own)
    return Rights(board=board, agent=name, operator=True) if name in SERVICES else None


def _once(grants: Iterable[Grant]) -> list[Grant]:
    """What rights imply: the results of `once` under their labels."""
    labels = dict.fromkeys(grant.access for grant in grants if grant.user is None)
    return [Grant(label, ONCE_TOPICS) for label in labels]


def _met(pattern: str, grants: Iterable[Grant]) -> list[Grant]:
    both = ((grant.access, meet(grant.topic, pattern)) for grant in grants)
    return [Grant(access, topic) for access, topic in both if topic is not None]


def _largest(grants: Iterable[Grant]) -> tuple[Grant, ...]:
    """Without those that lie within another."""
    distinct = list(dict.fromkeys(grants))
    return tuple(
        grant
        for grant in distinct
        if not any(grant.within(other) for other in distinct if other != grant)
    )
