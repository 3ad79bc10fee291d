"""Gathering a report: the board is read twice, up to where it ended when this began.

First for which memories belong here, then for what they say. Memories that arrive meanwhile are not
in it. Before anything is handed out, the report is on record: in the audit under a digest of the
person's name, so that a later order to forget them leaves no name behind, and among the copies that
receipts of such orders list.
"""

import uuid
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec

from blackboard.board import Blackboard
from blackboard.clock import now
from blackboard.codec import Json, encode_content, encode_record
from blackboard.envelope import is_expired
from blackboard.errors import (
    DeniedError,
    GoneError,
    HistoryGoneError,
    InvalidError,
    NotFoundError,
    UnavailableError,
)
from blackboard.inquiry import each_access
from blackboard.jetstream import Message, StreamInfo
from blackboard.ledger.about import About, Revision as Place
from blackboard.ledger.streams import ledger_stream
from blackboard.ledger.verify import verify
from blackboard.log import Log
from blackboard.messages import Memory, Payload
from blackboard.reader import Reader
from blackboard.receipts import Copy
from blackboard.report.beside import Beside
from blackboard.report.document import Head, Proof, Revision, State, Summary
from blackboard.report.kin import Kin, Part, each
from blackboard.report.spool import Spool, spool
from blackboard.subjects import FORGET, STATE, Ref, claim_subject, state_bucket

LONG = 64 * 1024
"""Bytes of content above which what a page shows of it is kept beside it."""
SHOWN = 8 * 1024
"""Characters of such content that a page could show."""
MAX_USER = 1024


@dataclass(slots=True)
class Line:
    """A memory of the report, without its revisions."""

    ref: Ref
    because: str = ""
    revisions: int = 0
    newest: Memory | None = None

    @property
    def state(self) -> State:
        """Whether it is there, or how it ended."""
        newest = self.newest
        if newest is None or newest.gone is None:
            return "expired" if newest is not None and is_expired(newest) else "there"
        return "retired" if newest.gone == "retired" else _ENDS[newest.gone]


_ENDS: dict[str, State] = {"forgotten": "forgotten", "moved": "moved"}


@dataclass(slots=True)
class Gathered:
    """A report that can be written.

    Attributes:
        head: All of it but the long lists.
        spool: The long lists.
        lines: The memories of each part, in order.
    """

    head: Head
    spool: Spool
    lines: dict[Part, list[Line]] = field(default_factory=dict[Part, list[Line]])


@asynccontextmanager
async def gathered(board: Blackboard, user: str) -> AsyncGenerator[Gathered]:
    """Gather a report; what it is made of lies on disk for as long as the context.

    Args:
        board: The board, opened with an operator's credential, where it has any.
        user: The person, as memories name them.

    Raises:
        DeniedError: This takes an operator's credential.
        InvalidError: The name cannot be one.
        NotFoundError: There is nothing, or no such board.
        SettingsError: There is no room for it.
        UnavailableError: The broker does not answer.
    """
    identity = board.session.connection.identity
    if identity is not None and identity.restricted:
        raise DeniedError(
            "a report shows what an agent may not read, and who read it: "
            "make it with an operator's credential"
        )
    _check(user)
    info = await board.session.connection.stream(board.log.stream)
    if info is None:
        raise NotFoundError(f"there is no board {board.name!r}")
    with spool() as kept:
        gathering = _Gathering(board, user, info, kept)
        await gathering.run()
        yield gathering.result()


def _check(user: str) -> None:
    if not user.strip():
        raise InvalidError("name the person, as the `user` of memories does")
    try:
        size = len(user.encode())
    except UnicodeEncodeError as error:
        raise InvalidError(f"{user!r} is no text, so no memory names it") from error
    if size > MAX_USER:
        raise InvalidError(f"a name of {size} bytes; name a person in at most {MAX_USER}")


async def recorded(board: Blackboard, head: Head, place: str | None) -> None:
    """Put on record that a report is handed out, before it is.

    Args:
        board: The board.
        head: Of the report.
        place: Where it goes; None when only its numbers are shown.

    Raises:
        UnavailableError: It is not on record; hand nothing out.
    """
    named = About(user=head.user).name or ""
    if place is not None:
        subject = claim_subject(board.name, FORGET, board.log.agent, f"x-{uuid.uuid4().hex}")
        copy = Copy(what=f"a report on {named} to {place}", at=head.at, last=head.last)
        await board.log.send([board.log.record(subject, copy, expected=0, ttl_s=None)])
    board.journal.audit("report", named)
    if not await board.journal.flush():
        raise UnavailableError(
            "the audit cannot be written, so no report is handed out; try again when it can"
        )


class _Gathering:
    """One gathering."""

    def __init__(self, board: Blackboard, user: str, info: StreamInfo, kept: Spool) -> None:
        self._board = board
        self._log: Log = board.log
        self._reader = Reader(board.log)
        self._user = user
        self._info = info
        self._last = info.state.last_seq
        self._at = now()
        self._spool = kept
        self._kin = Kin(self._log, user, self._last)
        self._places: dict[Ref, tuple[Part, int]] = {}
        self._lines: dict[Part, list[Line]] = {part: [] for part in Part}
        self._revisions: list[Place] = []
        self._counts = {name: Counter[str]() for name in ("topics", "agents", "labels", "states")}
        self._beside = Beside(board, user, self._kin, kept)
        self._proof: Proof | None = None
        self._lost = 0

    async def run(self) -> None:
        await self._kin.find()
        async for message, memory in each(self._log, self._last):
            part = self._kin.part(memory.ref.unpinned)
            if part is not None:
                await self._take(part, message, memory)
        await self._beside.read(min((one.sequence for one in self._revisions), default=None))
        about = About(frozenset(self._places), None, self._user)
        self._lost = await each_access(self._board, about, self._revisions, self._spool.add_access)
        connection = self._board.session.connection
        if await connection.stream(ledger_stream(self._board.name)) is not None:
            proof = await verify(connection, self._board.name)
            self._proof = Proof(
                records=proof.records,
                signed=proof.signed,
                key=proof.key,
                findings=tuple(map(str, proof.findings)),
                gaps=tuple(proof.gaps),
            )

    async def _take(self, part: Part, message: Message, memory: Memory) -> None:
        ref = memory.ref.unpinned
        lines = self._lines[part]
        place = self._places.get(ref)
        if place is None:
            place = self._places[ref] = part, len(lines)
            lines.append(Line(ref, self._kin.derived.get(ref, "") if part is Part.DERIVED else ""))
        line = lines[place[1]]
        revision, short = await self._revision(part, memory)
        body = encode_record(revision)
        self._spool.add_revision(
            part.value,
            place[1],
            line.revisions,
            body,
            None if short is None else encode_record(short),
        )
        line.revisions += 1
        # Without what it says: only how it ends is asked.
        line.newest = msgspec.structs.replace(
            memory, content=None, text=None, tags={}, sources=(), links=()
        )
        self._revisions.append(
            Place(ref, message.subject, memory.revision, message.stored, memory.gone)
        )
        if part is Part.OWN:
            self._counts["agents"][memory.agent] += 1
            self._counts["labels"][memory.access] += 1
            if place[1] == len(lines) - 1 and line.revisions == 1:
                self._counts["topics"][memory.topic] += 1

    async def _revision(self, part: Part, memory: Memory) -> tuple[Revision, Revision | None]:
        """A revision as the report has it, and the same with content cut if it is very long."""
        bare = Revision(
            revision=memory.revision,
            stored=memory.stored or self._at,
            agent=memory.agent,
            access=memory.access,
            gone=memory.gone,
            reason=memory.reason,
            expires=memory.expires,
            cause=memory.cause,
            origin=memory.origin,
            trace=memory.trace,
            withheld=self._withheld(part, memory),
        )
        if memory.gone is not None or bare.withheld is not None:
            return bare, None
        missing = None
        try:
            memory = await self._reader.filled(memory)
        except (GoneError, HistoryGoneError, NotFoundError, InvalidError) as error:
            missing = f"its content is not there any more: {error}"
        content = encode_content(memory.content)
        size = len(content) if memory.blob is None else memory.blob.size
        whole = msgspec.structs.replace(
            bare, body=_payload(memory, msgspec.Raw(content)), bytes=size, withheld=missing
        )
        if len(content) <= LONG:
            return whole, None
        cut = (
            memory.content
            if isinstance(memory.content, str)
            else content[: SHOWN * 4].decode(errors="ignore")
        )
        return whole, msgspec.structs.replace(whole, body=_payload(memory, cut[:SHOWN]))

    def _withheld(self, part: Part, memory: Memory) -> str | None:
        """Why what a revision says is not shown; None when it is."""
        ref = memory.ref.unpinned
        if memory.revision < self._kin.forgotten.get(ref, 0):
            return "it was forgotten, and is being deleted"
        if memory.user == self._user:
            return None
        if memory.user is not None:
            return "it is about another person"
        if ref not in self._kin.mixed:
            return None
        if part is Part.OWN:
            return "other revisions of this memory are about another person"
        return "it was made from memories about other people as well"

    def result(self) -> Gathered:
        """The report.

        Raises:
            NotFoundError: There is nothing.
        """
        own = self._lines[Part.OWN]
        states = Counter(line.state for line in own)
        times = [one.stored for one in self._revisions if one.ref in self._kin.own]
        summary = Summary(
            memories=len(own),
            revisions=len(times),
            states=dict(states),
            topics=_sorted(self._counts["topics"]),
            agents=_sorted(self._counts["agents"]),
            labels=_sorted(self._counts["labels"]),
            first=min(times, default=None),
            last=max(times, default=None),
            derived=len(self._lines[Part.DERIVED]),
            readers=tuple(self._spool.readers()),
            accesses=self._spool.count("access"),
            noted=self._spool.count("other", "noted"),
            spans=self._spool.count("other", "spans"),
        )
        if not (own or self._beside.forgotten):
            raise NotFoundError(
                f"board {self._board.name!r} holds nothing about {self._user!r}, and nothing about "
                "them was forgotten by name; see that the name is spelt as the memories have it "
                "(blackboard query --limit 0 --count-by user)"
            )
        head = Head(
            board=self._board.name,
            created=self._info.created,
            user=self._user,
            at=self._at,
            by=self._log.agent,
            last=self._last,
            summary=summary,
            ledger=self._proof,
            lost=self._lost,
            forgotten=tuple(self._beside.forgotten),
            copies=tuple(self._beside.copies),
            indexes=tuple(self._beside.indexes),
            notes=tuple(self._notes()),
        )
        return Gathered(head, self._spool, self._lines)

    def _notes(self) -> list[str]:
        notes: list[str] = []
        if self._proof is None:
            notes.append(
                "This board has no credentials: no broker recorded who read what. The accesses are "
                "what the programs say of themselves, and names are taken on trust."
            )
        if self._kin.mixed:
            notes.append(
                f"{len(self._kin.mixed)} of the memories listed here are about other people as "
                "well. What may be theirs is withheld; who is allowed to see it reads it with "
                "“blackboard get REFERENCE@REVISION”."
            )
        state = any(ref.topic.split(".")[0] == STATE for ref in self._kin.own)
        if state:
            notes.append(
                f"The newest of what lies under topic {STATE} is shown by the key-value bucket "
                f"{state_bucket(self._board.name)} too."
            )
        return notes


def _payload(memory: Memory, content: Json) -> Payload:
    """What the author said, with content from wherever it lies."""
    fields: dict[str, Any] = {name: getattr(memory, name) for name in Payload.__struct_fields__}
    return Payload(**{**fields, "content": content})


def _sorted(counts: Counter[str]) -> dict[str, int]:
    """By number, then by name."""
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))
