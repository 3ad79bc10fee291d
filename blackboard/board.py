"""The blackboard: the public face of one board under one agent's name.

It holds no state of its own but its parts: the log that writes and reads, the reader that fills
content in, the writer that keeps the rules. Inside a handler the same class writes into the
handler's draft (`bound`), so that there is one interface to learn.
"""
# pyright: reportImportCycles=false
# `Blackboard.sync` returns the synchronous face, which is made from this class.

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Unpack
from urllib.parse import quote

import msgspec

from blackboard.claim import Make, Once
from blackboard.codec import Json
from blackboard.conditions import Conditions, RefLike, several, to_ref, to_tags
from blackboard.draft import Binding, Draft
from blackboard.errors import (
    InvalidError,
    NoAnswerError,
)
from blackboard.jetstream import Client
from blackboard.messages import Cost, Memory
from blackboard.oblivion import Oblivion, Plan
from blackboard.reading import Reading
from blackboard.receipts import Order, Receipt
from blackboard.removal import MAX_REASON_BYTES, Removal
from blackboard.session import Desk, Session, open_session
from blackboard.settings import Limits, load
from blackboard.subjects import (
    ANSWERS,
    ANY_AGENT,
    ONCE,
    Ref,
    check_topic,
    reference_filter,
)
from blackboard.telemetry import (
    ASK,
    CREATE_MEMORY,
    DELETE_MEMORY,
    ONCE as ONCE_NAME,
    ONCE_MEMORY,
    RECORD_COUNT,
    RECORD_ID,
    REUSED,
    TOPIC,
    UPDATE_MEMORY,
    UPSERT_MEMORY,
)
from blackboard.watch import wait_for
from blackboard.writer import Writer, compose

if TYPE_CHECKING:
    from blackboard.sync import SyncBlackboard


class Blackboard(Reading):
    """One board, as one agent sees it. Open it with `Blackboard.open` or `Blackboard.local`.

    Safe to use from many tasks of one event loop at once. Methods raise the errors of
    `blackboard.errors`; every one of them may raise `UnavailableError` when the broker does not
    answer: reads after 5 s, writes after 10 s. The connection comes back by itself.
    """

    def __init__(
        self,
        session: Session,
        desk: Desk,
        *,
        draft: Draft | None = None,
        binding: Binding | None = None,
    ) -> None:
        self.session = session
        self.log = desk.log
        self.journal = desk.journal
        self.telemetry = desk.log.telemetry
        self.draft = draft
        self._desk = desk
        self._reader = desk.reader if draft is None else desk.reader.through(draft)
        self._writer = Writer(desk.log, self._reader, draft, binding)
        self._removal = Removal(desk.log, self._reader, draft, binding)

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        url: str | None = None,
        board: str | None = None,
        agent: str = "reader",
        *,
        create: bool = True,
        limits: Limits | None = None,
    ) -> AsyncGenerator["Blackboard"]:
        """Open a board, making it when it is not there; close the connection on leaving.

        Args:
            url: The broker's addresses, separated by commas; None: $BLACKBOARD_URL, else the local
                stack of $BLACKBOARD_DATA, which is started when it does not run.
            board: None: $BLACKBOARD_BOARD, else `main`.
            agent: The name on what is written. Without credentials the broker takes it on trust.
            create: False raises instead of making the board.
            limits: What a board that is made may hold.

        Raises:
            SettingsError: An address, the token, or the data directory cannot be used.
            UnavailableError: No broker answers there.
            NotFoundError: There is no such board and `create` is False.
        """
        settings = load()
        if url is not None:
            settings = msgspec.structs.replace(settings, url=url)
        name = board or settings.board
        async with open_session(
            settings, name, agent, limits=limits or Limits(), create=create
        ) as session:
            yield cls(session, session.desk(name, agent))

    @classmethod
    @asynccontextmanager
    async def local(
        cls,
        data_dir: Path | str | None = None,
        board: str | None = None,
        agent: str = "reader",
    ) -> AsyncGenerator["Blackboard"]:
        """Open a board of the local stack, starting the stack when it does not run.

        It ends when its last user has left, unless `blackboard up` holds it.

        Args:
            data_dir: Where it keeps its data; None: $BLACKBOARD_DATA, else `.blackboard`.
            board: None: $BLACKBOARD_BOARD, else `main`.
            agent: The name on what is written.

        Raises:
            SettingsError: The directory cannot be used, or the broker's program is not installed.
        """
        settings = msgspec.structs.replace(load(), url=None)
        if data_dir is not None:
            settings = msgspec.structs.replace(settings, data_dir=Path(data_dir))
        name = board or settings.board
        async with open_session(settings, name, agent, limits=Limits(), create=True) as session:
            yield cls(session, session.desk(name, agent))

    @classmethod
    def sync(
        cls,
        url: str | None = None,
        board: str | None = None,
        agent: str = "reader",
        *,
        create: bool = True,
        limits: Limits | None = None,
    ) -> "AbstractContextManager[SyncBlackboard]":
        """Open a board for synchronous code: `with Blackboard.sync() as board: board.put(…)`.

        Arguments and errors as in `open`; the methods are the same, without `await`.
        """
        # The one import upwards; here, because few programs need it and the module needs this one.
        from blackboard.sync import SyncBlackboard  # noqa: PLC0415

        return SyncBlackboard.open(url, board, agent, create=create, limits=limits)

    @property
    def name(self) -> str:
        """The board's name."""
        return self.log.board

    @property
    def agent(self) -> str:
        """The name on what is written here."""
        return self.log.agent

    @property
    def url(self) -> str:
        """Where the broker is, without the secret."""
        return self.session.url

    @property
    def connection(self) -> Client:
        """The NATS client, for what this interface does not offer."""
        return self.session.connection.client

    def sibling(self, board: str | None = None, agent: str | None = None) -> "Blackboard":
        """Another board, or another name, over the same connection; the board is made on first use.

        Raises:
            InvalidError: `board` or `agent` cannot be a name.
        """
        desk = self.session.desk(board or self.name, agent or self.agent)
        return Blackboard(self.session, desk)

    def bound(self, draft: Draft, binding: Binding) -> "Blackboard":
        """This board inside a handler: writes go into its draft, outputs name its input."""
        return Blackboard(self.session, self._desk, draft=draft, binding=binding)

    # Writing

    async def put(
        self,
        topic: str,
        content: Json,
        *,
        key: str | None = None,
        kind: str | None = None,
        access: str | None = None,
        session: str | None = None,
        user: str | None = None,
        tags: Mapping[str, str] | None = None,
        priority: float | None = None,
        sources: Sequence[RefLike] = (),
        links: Sequence[RefLike] = (),
        ttl: timedelta | None = None,
        happened: datetime | None = None,
        cost: Cost | None = None,
        text: str | None = None,
        expected: int | None = None,
        now: bool = False,
    ) -> Ref:
        """Put a memory on the board; it is on disk, and under way to its readers, on return.

        In a handler it joins the handler's batch instead, and is stored when the handler returns.

        Args:
            topic: Tokens of A-Z, a-z, 0-9, _ and - joined by dots; `once` and `answers` are taken.
            content: Any JSON value, up to 256 MiB, or a `Memory` whose fields the arguments
                replace.
            key: Makes it shared state at this key: the next revision of what is there, whoever put
                it. Without it the memory is new and only this agent may revise it.
            kind: note, or a word of your own.
            access: The access label; `shared`, in a handler that of its inputs, or what the key
                has.
            session: The job or conversation it belongs to.
            user: The data subject, for erasure.
            tags: Names and values, both str.
            priority: 0 to 1.
            sources: What it was made from. Pinned to the revision they have now.
            links: See also.
            ttl: At least 1 s; a revision inherits it and may lengthen it.
            happened: When the event was, with time zone.
            cost: What it took to make.
            text: What to index when content is not a string.
            expected: With key: the revision that must be the newest; 0 means absent or gone.
            now: In a handler: store at once, with an id of its own.

        Returns:
            The reference, with the revision it was `written` at.

        Raises:
            InvalidError: An argument breaks a rule; the text names it.
            LabelError: The key lies under another label.
            ConflictError: The key moved past `expected`.
            TooLargeError: Content above 256 MiB, or the other fields above 900 KiB.
            BoardFullError: No room.
        """
        self._reserved(topic)
        memory = compose(
            content,
            kind=kind,
            session=session,
            user=user,
            tags=to_tags(tags),
            priority=priority,
            sources=_refs(sources) or None,
            links=_refs(links) or None,
            happened=happened,
            cost=cost,
            text=text,
        )
        name = CREATE_MEMORY if key is None else UPSERT_MEMORY
        with self.telemetry.span(name, attributes={TOPIC: topic}) as span:
            ref = await self._writer.put(
                topic, memory, key=key, access=access, ttl=ttl, expected=expected, now=now
            )
            span.set_attribute(RECORD_ID, ref)
            return ref

    async def put_many(
        self,
        topic: str,
        contents: Sequence[Json],
        *,
        kind: str | None = None,
        access: str | None = None,
        session: str | None = None,
        user: str | None = None,
        tags: Mapping[str, str] | None = None,
        priority: float | None = None,
        sources: Sequence[RefLike] = (),
        ttl: timedelta | None = None,
    ) -> list[Ref]:
        """Put new memories, in order, in atomic batches of up to 1,000 (and about 32 MiB).

        Args and errors as in `put`. When a later batch fails, the earlier ones are stored.
        """
        self._reserved(topic)
        fields = {
            "kind": kind,
            "session": session,
            "user": user,
            "tags": to_tags(tags),
            "priority": priority,
            "sources": _refs(sources) or None,
        }
        attributes = {TOPIC: topic, RECORD_COUNT: len(contents)}
        with self.telemetry.span(CREATE_MEMORY, attributes=attributes):
            return await self._writer.put_many(topic, contents, fields, access=access, ttl=ttl)

    async def revise(
        self,
        ref: RefLike,
        content: Json,
        *,
        expected: int | None = None,
        tags: Mapping[str, str] | None = None,
        sources: Sequence[RefLike] = (),
        ttl: timedelta | None = None,
        cost: Cost | None = None,
    ) -> Ref:
        """Put the next revision of a memory that is there; its other fields stay.

        Args:
            ref: Shared state, or a memory of this agent.
            content: The new content, or a `Memory` that takes its place as it is.
            expected: The revision that must be the newest; None revises whatever is there.
            tags: In place of those it has.
            sources: In place of those it has.
            ttl: Lengthens its life, from now.
            cost: What the revision took to make.

        Raises:
            ConflictError: It moved past `expected`; get it again and decide again.
            NotFoundError: It is not there, or expired.
            GoneError: It was taken back.
            InvalidError: It belongs to another agent, or the ttl would be shortened.
        """
        target = to_ref(ref)
        given = {
            "tags": to_tags(tags),
            "sources": _refs(sources) or None,
            "cost": cost,
        }

        def change(live: Memory) -> Memory:
            if isinstance(content, Memory):
                return compose(content, **given)
            plain = msgspec.structs.replace(live, content=content, content_of=None, blob=None)
            return compose(plain, **given)

        with self.telemetry.span(UPDATE_MEMORY, attributes={RECORD_ID: target}):
            return await self._writer.revise(target, change, expected=expected, ttl=ttl)

    async def update(self, ref: RefLike, function: Callable[[Memory | None], object]) -> Memory:
        """Read, change, compare and set; again on a conflict, until it holds.

        Args:
            ref: Shared state, or a memory of this agent; it need not be there yet.
            function: Gets the memory, or None when it is absent or gone, and returns the new
                content or a `Memory`. May be async. It may be called several times.

        Returns:
            The memory as it was written.

        Raises:
            InvalidError: It belongs to another agent, or `function` returned None.
        """
        target = to_ref(ref)
        with self.telemetry.span(UPDATE_MEMORY, attributes={RECORD_ID: target}):
            return await self._writer.update(target, function)

    async def retire(self, ref: RefLike, reason: str = "") -> Ref:
        """Take a memory back: readers get `GoneError`, watchers a tombstone, views drop it.

        `undo` brings it back within the grace period (a day), after which the steward deletes it.

        Raises:
            NotFoundError: It is not there, or expired.
            GoneError: It was taken back before.
            InvalidError: It belongs to another agent, or the reason is above 8 KiB.
        """
        target = to_ref(ref)
        with self.telemetry.span(DELETE_MEMORY, attributes={RECORD_ID: target}):
            retired = await self._removal.retire(target, reason)
        self.journal.audit("retire", str(target), revision=retired.written)
        return retired

    async def undo(self, ref: RefLike) -> Ref:
        """Bring a retired memory back: its last content becomes a new revision.

        Raises:
            GoneError: The grace period is over and its content was deleted.
            InvalidError: It is not retired, or belongs to another agent.
        """
        target = to_ref(ref)
        with self.telemetry.span(UPDATE_MEMORY, attributes={RECORD_ID: target}):
            undone = await self._removal.undo(target)
        self.journal.audit("undo", str(target), revision=undone.written)
        return undone

    async def reclassify(self, ref: RefLike, access: str) -> Ref:
        """Move a memory under another access label; its reference stays the same.

        A memory that shows a result of `once` takes the content along; the result itself stays.

        Raises:
            LabelError: It lies there already.
            NotFoundError: It is not there, or expired.
            GoneError: It was taken back.
            InvalidError: It belongs to another agent.
        """
        target = to_ref(ref)
        with self.telemetry.span(UPDATE_MEMORY, attributes={RECORD_ID: target}):
            moved = await self._removal.reclassify(target, access)
        self.journal.audit("reclassify", str(target), revision=moved.written)
        return moved

    async def forget(
        self,
        ref: RefLike | Sequence[RefLike] = (),
        *,
        reason: str = "",
        confirmed: bool = False,
        timeout: float | None = 60.0,
        **where: Unpack[Conditions],
    ) -> Receipt:
        """Take memories away for good, with all that was made from them, wherever they lie.

        A memory is meant when one of its revisions that are kept matches, and goes with all of
        them, over all labels and agents. What was made from it goes too (`sources`, and what shows
        a result), and what arrives later with a source that was forgotten. The steward does it;
        whatever ends in the middle, it goes on where it was.

        Args:
            ref: These memories.
            reason: Kept in the receipt and shown by the tombstones; name no person in it.
            confirmed: Do it also when nothing matches, or everything does.
            timeout: Seconds to wait for the steward; None waits for ever.
            **where: Which memories, as in `recall`; topic=">" is the whole board.

        Returns:
            The receipt, once it is all gone from every reader: `complete`, or `pending` while some
            store (`waits_for`) still has to be seen clean; `receipt` tells later.

        Raises:
            NotFoundError: Nothing matches; nothing was done.
            InvalidError: Nothing is named, or everything matches; nothing was done.
            DeniedError: That takes an operator's credential.
            NoAnswerError: Not done in time. The order stands, and a steward that starts does it.
        """
        order = await self.forget_order(ref, reason=reason, **where)
        oblivion = Oblivion(self.log)
        if not confirmed:
            oblivion.check(await oblivion.plan(order))
        await oblivion.place(order)
        self.journal.audit("order", order.id)
        return await oblivion.wait(order.id, timeout, lambda receipt: receipt.removed is not None)

    async def preview_forget(
        self, ref: RefLike | Sequence[RefLike] = (), **where: Unpack[Conditions]
    ) -> Plan:
        """What `forget` would take away with the same arguments, and why; nothing is changed.

        Raises:
            InvalidError: Nothing is named.
            DeniedError: That takes an operator's credential.
        """
        return await Oblivion(self.log).plan(await self.forget_order(ref, **where))

    async def receipt(self, order: str) -> Receipt | None:
        """The receipt of something that was forgotten, as it stands now; None if there is none."""
        return await Oblivion(self.log).receipt(order)

    async def forget_order(
        self,
        ref: RefLike | Sequence[RefLike] = (),
        *,
        reason: str = "",
        **where: Unpack[Conditions],
    ) -> Order:
        """The order that `forget` would place; nothing is changed."""
        given = (ref,) if isinstance(ref, str | Ref | Memory) else ref
        refs = [to_ref(one) for one in given]
        if len(quote(reason)) > MAX_REASON_BYTES:
            raise InvalidError(f"a reason of {len(reason)} characters; give a shorter one")
        return Oblivion(self.log).order(refs, await self._filter(where), reason)

    async def once(
        self,
        name: str,
        inputs: Json,
        make: Make,
        *,
        version: str = "1",
        topic: str | None = None,
        max_age: timedelta | None = None,
        access: str | None = None,
        lease: float = 10.0,
        session: str | None = None,
        user: str | None = None,
        tags: Mapping[str, str] | None = None,
        priority: float | None = None,
        ttl: timedelta | None = None,
    ) -> Memory:
        """Return the result of a piece of work that is stored once, made here if nobody has yet.

        One result is stored per name, version, label and inputs, whoever asks and whatever crashes.
        `make` runs in one caller at a time as long as its holder renews its lease; it may run again
        after a crash or a lost lease, so its effects outside the board must bear that.

        Args:
            name: Names the kind of work; one token.
            inputs: What the result depends on, as JSON; memories and references count by content.
            make: Called without arguments; async, or a plain function, which runs in a thread.
                Returns content or a `Memory` (whose `cost` is kept).
            version: Change it when `make` changes, to have results made anew.
            topic: Where this caller's own light memory goes, which shows the result; in a handler
                by default its `to`. None returns the result itself.
            max_age: Makes it anew when the stored result is older.
            access: The result's label; by default the one label of the inputs, and in a handler of
                its own inputs too.
            lease: Seconds without a sign of life after which another caller takes over; from 1 to
                86,400.
            session: Of the light memory, as the following are.
            user: The data subject.
            tags: Names and values.
            priority: 0 to 1.
            ttl: At least 1 s.

        Returns:
            The light memory (kind `result` if this call's `make` ran, else `reuse`), or the result.

        Raises:
            MakeFailedError: The caller that was making it failed; calling again tries again.
            LabelError: The inputs lie under two labels; name `access=`.
            InvalidError: The inputs have no canonical JSON form.
        """
        if topic is not None:
            self._reserved(topic)
        once = Once(self.log, self._reader, self._writer, self.session.flights)
        with self.telemetry.span(ONCE_MEMORY, attributes={ONCE_NAME: name}) as span:
            work = await once.work(
                name, inputs, version=version, access=access, max_age=max_age, lease_s=lease
            )
            result, made = await once.result(work, make)
            span.set_attribute(REUSED, not made)
            if not made:
                span.link(result.trace)
            once.count(result, made=made)
            binding = self._writer.binding
            target = topic or (None if binding is None else binding.to)
            if target is None:
                return result
            fields = compose(
                None,
                session=session,
                user=user,
                tags=to_tags(tags),
                priority=priority,
            )
            return await once.light(result, target, fields, made=made, ttl=ttl)

    async def ask(
        self,
        topic: str,
        content: Json,
        *,
        timeout: float | None = 30.0,
        session: str | None = None,
        user: str | None = None,
        tags: Mapping[str, str] | None = None,
        access: str | None = None,
    ) -> Memory:
        """Put a request and wait for the first answer that names it.

        In a handler the request has a derived id: a redelivery waits for the same answer, and a
        revised input asks anew.

        Raises:
            NoAnswerError: Nobody answered in time; the request stays on the board.
            InvalidError: An argument breaks a rule.
        """
        self._reserved(topic)
        check_topic(f"{ANSWERS}.{topic}")
        memory = compose(
            content,
            kind="request",
            session=session,
            user=user,
            tags=to_tags(tags),
        )
        with self.telemetry.span(ASK, attributes={TOPIC: topic}, expected=(NoAnswerError,)) as span:
            request = await self._writer.request(topic, memory, access)
            span.set_attribute(RECORD_ID, request)
            answer = Ref(ANY_AGENT, f"{ANSWERS}.{topic}", f"a-{request.id}")
            subject = reference_filter(self.name, answer)
            what = f"an answer to {request}"
            return await wait_for(
                self.log, self._reader, self.journal, subject, lambda _: True, timeout, what
            )

    def _reserved(self, topic: str) -> None:
        first = check_topic(topic).split(".")[0]
        if first in (ONCE, ANSWERS):
            raise InvalidError(
                f"topic {topic!r}: {first!r} is kept for the library; choose another first token"
            )


def _refs(refs: Sequence[RefLike]) -> tuple[Ref, ...]:
    """References to keep in a memory: one read from the board is pinned to what was read."""
    if isinstance(refs, str | Ref | Memory):  # a str is a sequence too
        raise InvalidError(f"sources= and links= take a list of references, not {refs!r}")
    return tuple(
        ref.pinned if isinstance(ref, Memory) and ref.revision else to_ref(ref)
        for ref in several(refs)
    )
