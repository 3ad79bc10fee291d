"""What of a board can be condensed, and what was: a fold over the stream.

Nothing here is kept anywhere else. After a restart the newest revision of every memory is read
again, and with it which summaries there are, what they were made from, and what of that is left.
Of each memory that can be condensed, or was, a few hundred bytes are held.
"""

import sys
from datetime import datetime

import msgspec

from blackboard.clock import now
from blackboard.consolidate.extract import learnt
from blackboard.consolidate.lexicon import Lexicon
from blackboard.consolidator.policy import OWN_KINDS, UNTOUCHABLE, Policy, Rules
from blackboard.errors import InvalidError
from blackboard.messages import CONDENSED, Memory
from blackboard.plaintext import plain
from blackboard.retention import Retention
from blackboard.subjects import ANSWERS, CONSOLIDATOR, ONCE, Ref
from blackboard.tokens import tokens

AGENT = CONSOLIDATOR
LEARNT_CHARS = 4_000
"""Of each memory, for how rare words are."""


class Key(msgspec.Struct, frozen=True, order=True):
    """What the memories of a group share; never more than one label and one data subject.

    With neither session nor user they are all that is loose under a topic, of which memories close
    in meaning are condensed together.
    """

    access: str
    topic: str
    session: str | None = None
    user: str | None = None

    @property
    def loose(self) -> bool:
        """They share no more than the topic."""
        return self.session is None and self.user is None

    def __str__(self) -> str:
        named = {"session": self.session, "user": self.user}
        parts = [f"{name} {value}" for name, value in named.items() if value is not None]
        return f"{self.topic} ({', '.join(parts) or 'loose'})"


class Candidate(msgspec.Struct, frozen=True, gc=False):
    """A memory that may be condensed."""

    ref: Ref
    """Pinned."""
    name: Ref
    """The same, unpinned."""
    stored: datetime
    bytes: int
    tokens: int
    expires: datetime | None = None


class Orphan(msgspec.Struct, frozen=True):
    """What is left of a summary that was forgotten.

    Attributes:
        key: Of its group; all that it shares with its topic where more is not known any more.
        sources: What it was made from, as far as is known: unpinned, some of them gone.
        tombstone: The revision by which it was forgotten.
    """

    key: Key
    sources: tuple[Ref, ...]
    tombstone: int


class Groups:
    """The groups of one board.

    Attributes:
        rules: What may be condensed.
        retention: The board's policy of what has to go.
        lexicon: How rare words are on the board.
        summaries: Live summaries and what they were made from, pinned.
        tainted: Those of them of which a source was forgotten.
        orphans: By forgotten summary, what another is to be made from.
        undone: Memories that are not to be condensed again.
        position: The last revision taken in.
    """

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.retention: Retention | None = None
        self.lexicon = Lexicon()
        self.summaries: dict[Ref, tuple[Ref, ...]] = {}
        self.tainted: set[Ref] = set()
        self.orphans: dict[Ref, Orphan] = {}
        self.undone: set[Ref] = set()
        self.position = 0
        self._members: dict[Key, dict[Ref, Candidate]] = {}
        self._places: dict[Ref, Key] = {}
        self._shared: dict[Key, Key] = {}
        # A source's summaries, each with the revision it was made from; hardly ever more than one.
        self._covers: dict[Ref, tuple[tuple[Ref, int], ...]] = {}
        # What summaries that are not there retired, until it is known how they went.
        self._bereft: dict[Ref, list[Ref]] = {}
        self._echoes: set[Ref] = set()
        self._keys: dict[Ref, Key] = {}
        # Summaries that may leave something to do, and the revision they are known from.
        self._open: dict[Ref, int] = {}
        self._forgotten: set[Ref] = set()

    def take(self, memory: Memory) -> None:
        """Take in the next revision of the stream, tombstones included."""
        self.position = max(self.position, memory.revision)
        ref = memory.ref.unpinned
        self._leave(ref)
        if memory.agent == AGENT and not ref.shared and (memory.gone or memory.kind == "summary"):
            self._summary(ref, memory)
        if memory.gone is not None:
            self._gone(ref, memory)
            return
        self._forgotten.discard(ref)
        if any(source.unpinned in self._echoes for source in memory.sources):
            self._echoes.add(ref)
        policy = self.rules.of(memory.topic)
        if self._is_eligible(memory, policy):
            self._enter(ref, memory)

    def policy(self, key: Key) -> Policy:
        """How a group is condensed: as the settings say, and in time for the retention policy."""
        policy = self.rules.of(key.topic)
        rule = None if self.retention is None else self.retention.rule_of(key.topic, key.access)
        return policy if rule is None else policy.hastened(rule)

    def group_of(self, summary: Ref) -> Key | None:
        """The group of a live summary."""
        return self._keys.get(summary)

    def keys(self) -> list[Key]:
        """The groups that have anything."""
        return list(self._members)

    def size(self, key: Key) -> int:
        """How many memories a group has, covered ones included."""
        return len(self._members.get(key, ()))

    def members(self, key: Key) -> list[Candidate]:
        """What of a group no summary covers, the oldest first."""
        return [
            one
            for ref, one in sorted(
                self._members.get(key, {}).items(), key=lambda each: each[1].ref.revision or 0
            )
            if ref not in self.undone and not self.covering(one.ref)
        ]

    def covering(self, source: Ref) -> set[Ref]:
        """The live summaries made from exactly this revision."""
        over = self._covers.get(source.unpinned, ())
        return {summary for summary, revision in over if revision == source.revision}

    def unretired(self, summary: Ref) -> list[Ref]:
        """Sources of a summary that are there as they were condensed."""
        found: list[Ref] = []
        for source in self.summaries.get(summary, ()):
            key = self._places.get(source.unpinned)
            if key is not None and self._members[key][source.unpinned].ref == source:
                found.append(source)
        return found

    def unfinished(self, key: Key | None = None) -> dict[Key, list[Ref]]:
        """Summaries, by group, that leave something to do: sources to retire, or to give back."""
        found: dict[Key, list[Ref]] = {}
        for summary in list(self._open):
            own = self._keys[summary]
            if key is not None and own != key:
                continue
            if summary in self.tainted or (
                self.rules.of(summary.topic).sources == "retire" and self.unretired(summary)
            ):
                found.setdefault(own, []).append(summary)
            elif self.position >= self._open[summary]:
                del self._open[summary]  # a source that was retired or revised stays so
        for one in self.orphans.values():
            if key is None or one.key == key:
                found.setdefault(one.key, [])
        return found

    def _enter(self, ref: Ref, memory: Memory) -> None:
        key = key_of(memory)
        # One name, and one key, for all that share it: each came in a message of its own.
        key = self._shared.setdefault(key, key)
        name = Ref(sys.intern(ref.agent), sys.intern(ref.topic), ref.id)
        text = plain(memory, LEARNT_CHARS) if memory.content_of is None else ""
        self.lexicon.learn(learnt(text))
        size = memory.blob.size if memory.blob is not None else len(text)
        self._members.setdefault(key, {})[name] = Candidate(
            ref=name.pinned(memory.revision),
            name=name,
            stored=memory.stored or now(),
            bytes=size,
            tokens=tokens(text),
            expires=memory.expires,
        )
        self._places[name] = key

    def _leave(self, ref: Ref) -> None:
        key = self._places.pop(ref, None)
        if key is not None:
            members = self._members[key]
            del members[ref]
            if not members:
                del self._members[key], self._shared[key]

    def _gone(self, ref: Ref, memory: Memory) -> None:
        if memory.gone == "forgotten":
            self._forgotten.add(ref)
            for summary, _ in self._covers.get(ref, ()):
                self.tainted.add(summary)
                self._open[summary] = self.position
        elif memory.gone == "retired" and memory.condenses:
            try:
                summary = Ref.parse((memory.reason or "").removeprefix(CONDENSED))
            except InvalidError:
                return  # anybody may give such a reason
            if summary.agent == AGENT and summary not in self.summaries:
                self._bereft.setdefault(summary, []).append(ref)

    def _summary(self, ref: Ref, memory: Memory) -> None:
        before = self.summaries.pop(ref, ())
        key = self._keys.pop(ref, None) or Key(memory.access, memory.topic)
        self._open.pop(ref, None)
        self.tainted.discard(ref)
        for source in before:
            self._uncover(source.unpinned, ref)
        bereft = self._bereft.pop(ref, ())
        if memory.gone == "retired":
            # Somebody took the summary back on purpose; making it again would be no undo.
            self.undone.update(source.unpinned for source in before)
        elif memory.gone == "forgotten":
            left = dict.fromkeys((*(source.unpinned for source in before), *bereft))
            if left:
                self.orphans[ref] = Orphan(key, tuple(left), memory.revision)
        if memory.gone is not None:
            return
        self._echoes.add(ref)
        self._keys[ref] = key_of(memory)
        self._open[ref] = memory.revision
        self.summaries[ref] = tuple(self._cover(source, ref) for source in memory.sources)

    def _cover(self, source: Ref, summary: Ref) -> Ref:
        """Remember that a summary stands for a source; gives the source as it is remembered."""
        name = source.unpinned
        key = self._places.get(name)
        if key is not None:
            known = self._members[key][name]
            name, source = known.name, known.ref if known.ref == source else source
        self._covers[name] = (*self._covers.get(name, ()), (summary, source.revision or 0))
        if name in self._forgotten:
            self.tainted.add(summary)
        return source

    def _uncover(self, name: Ref, summary: Ref) -> None:
        left = tuple(one for one in self._covers.pop(name, ()) if one[0] != summary)
        if left:
            self._covers[name] = left

    def _is_eligible(self, memory: Memory, policy: Policy) -> bool:
        ref = memory.ref.unpinned
        barred = (
            not policy.condense
            or memory.ref.shared
            or memory.priority >= UNTOUCHABLE
            or memory.topic.split(".")[0] in (ONCE, ANSWERS)
            or (memory.expires is not None and policy.sources != "ttl")
            or (memory.blob is not None and not memory.text)
            # A summary, or what was written from one, or from that: echo upon echo.
            or (not policy.summaries and (memory.kind == "summary" or ref in self._echoes))
        )
        if barred:
            return False
        if policy.kinds:
            return memory.kind in policy.kinds
        return memory.kind not in OWN_KINDS or (policy.summaries and memory.kind == "summary")


def key_of(memory: Memory) -> Key:
    """The group of a memory."""
    return Key(memory.access, memory.topic, memory.session, memory.user)
