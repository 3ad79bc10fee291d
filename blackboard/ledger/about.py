"""What somebody asks the audit about: one memory, topics, or all memories of a data subject."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

import msgspec

from blackboard.access.identity import PREFIX
from blackboard.access.patterns import meet
from blackboard.codec import read
from blackboard.errors import InvalidError
from blackboard.jetstream import Connection, Message, Start, follow
from blackboard.receipts import digest
from blackboard.subjects import Address, Pattern, Ref, memory_stream, reference_filter


@dataclass(frozen=True, slots=True)
class Revision:
    """A revision that is on the board; tombstones are."""

    ref: Ref
    subject: str
    sequence: int
    stored: datetime
    gone: str | None


@dataclass(frozen=True, slots=True)
class About:
    """What is asked about; all of it when nothing is named.

    Attributes:
        refs: These memories, whatever the revision, unless one is pinned.
        pattern: Topics.
        user: A data subject, whose memories `refs` are.
    """

    refs: frozenset[Ref] | None = None
    pattern: Pattern | None = None
    user: str | None = None

    @property
    def name(self) -> str | None:
        """What stands for the data subject where its name must not stay; None without one."""
        return None if self.user is None else f"user {digest(self.user)}"

    @property
    def everything(self) -> bool:
        """Whether nothing is named."""
        return self.refs is None and self.pattern is None

    def selects(self, what: str, revision: int | None = None) -> bool:
        """Whether a reference, a subject, a filter or a pattern is about it.

        Args:
            what: As it stands in an item.
            revision: That was read, if it is known.
        """
        if self.everything or (self.user is not None and what == self.name):
            return True
        if "/" in what:
            try:
                ref = Ref.parse(what)
            except InvalidError:
                return False
            return self._ref(ref.unpinned, ref.revision or revision)
        tokens = _tokens(what)
        return self._topics(what) if tokens is None else self._filter(tokens, revision)

    def _topics(self, what: str) -> bool:
        """Whether a pattern that somebody asked for takes it in."""
        try:
            asked = Pattern.parse(what)
        except InvalidError:
            return False
        if self.pattern is not None and meet(what, self.pattern.text) is None:
            return False
        return self.refs is None or any(map(asked.matches, _topics_of(self.refs)))

    def _ref(self, ref: Ref, revision: int | None) -> bool:
        if self.pattern is not None and not self.pattern.matches(ref.topic):
            return False
        if self.refs is None:
            return True
        return ref in self.refs or (revision is not None and ref.pinned(revision) in self.refs)

    def _filter(self, tokens: list[str], revision: int | None) -> bool:
        rest = tokens[4:]
        topics = ".".join(rest if rest[-1] == ">" else rest[:-1])
        if self.pattern is not None and meet(topics, self.pattern.text) is None:
            return False
        if self.refs is None:
            return True
        named = not {"*", ">"} & set(rest)
        known = _named(self.refs).get(".".join(rest), []) if named else self.refs
        return any(
            (ref.revision is None or revision is None or ref.revision == revision)
            and (ref.shared or tokens[3] in ("*", ref.agent))
            and Pattern(".".join(rest)).matches(f"{ref.topic}.{ref.id}")
            for ref in known
        )


# References may be a hundred thousand, and so may be what is held against them.


@lru_cache(maxsize=4)
def _topics_of(refs: frozenset[Ref]) -> frozenset[str]:
    return frozenset(ref.topic for ref in refs)


@lru_cache(maxsize=4)
def _named(refs: frozenset[Ref]) -> Mapping[str, list[Ref]]:
    """References by topic and id."""
    found: defaultdict[str, list[Ref]] = defaultdict(list)
    for ref in refs:
        found[f"{ref.topic}.{ref.id}"].append(ref)
    return found


def _tokens(what: str) -> list[str] | None:
    """The tokens of a memory's subject or filter, in whatever it is wrapped; None for others."""
    tokens = what.removeprefix(PREFIX).split(".")
    if tokens[0] == "rd":
        tokens = tokens[4:]  # rd.<board>.<agent>.<stream>
    return tokens if tokens[:1] == ["mem"] and len(tokens) > 4 else None


class _Payload(msgspec.Struct):
    user: str | None = None


_payload = msgspec.json.Decoder(_Payload)


async def revisions(connection: Connection, board: str, about: About) -> list[Revision]:
    """The revisions on a board that are asked about, oldest first.

    Of a data subject, all revisions of the memories that name it in any revision that is left.

    Raises:
        UnavailableError: The broker does not answer.
    """
    if about.refs is not None and len(about.refs) == 1 and about.user is None:
        subject = reference_filter(board, next(iter(about.refs)))
    else:
        pattern = about.pattern or Pattern(">")
        subject = pattern.subject(board)
    found: list[Revision] = []
    of_user: set[Ref] = set()
    stream = memory_stream(board)
    bodies = about.user is not None
    async with follow(
        connection, stream, subject, Start.all(), headers_only=not bodies
    ) as follower:
        while follower.pending:
            message = await follower.step()
            revision = None if message is None else _revision(message)
            if message is None or revision is None:
                continue
            if about.user is not None and _user(message.data) == about.user:
                of_user.add(revision.ref)
            if about.refs is None or about.user is not None or revision.ref in _plain(about):
                found.append(revision)
    return [one for one in found if about.user is None or one.ref in of_user]


def _plain(about: About) -> set[Ref]:
    return {ref.unpinned for ref in about.refs or ()}


def _revision(message: Message) -> Revision | None:
    try:
        ref = Address.parse(message.subject).ref
    except InvalidError:
        return None
    gone = message.headers.get("Bb-Gone")
    return Revision(ref, message.subject, message.sequence, message.stored, gone)


def _user(body: bytes) -> str | None:
    try:
        return read(_payload, body).user
    except InvalidError:
        return None
