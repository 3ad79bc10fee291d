"""The steward's gate: JetStream for agents with limited rights, one checked request at a time.

An agent asks in the words of the JetStream API and gets the broker's own answer, within its rights:
filters are cut down to what it may read, single messages are looked at before they are shown, and
consumers are its own, delivered to its own inbox. What is not listed here is refused. The caller's
name is a token of the subject that the broker lets nobody else use.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec

from blackboard.access import filters
from blackboard.access.rights import Rights
from blackboard.codec import decode_record, encode_record
from blackboard.envelope import to_memory
from blackboard.errors import BlackboardError, DeniedError, InvalidError, RetryableError
from blackboard.jetstream import Answer, BrokerError, Connection, Message, NoStreamError
from blackboard.jetstream.errors import STREAM_MISSING
from blackboard.layout import create_presence, limits_of
from blackboard.ledger import Delivered, Denied, Ledger, Served
from blackboard.ledger.deliveries import follow_of
from blackboard.records import ApiRequest, ServedMessages
from blackboard.roster import Roster
from blackboard.steward.consumers import Consumers
from blackboard.steward.words import (
    Body,
    Failure,
    Names,
    Refusal,
    Wanted,
    check_size,
    checked_subject,
    served,
    stored,
    without_secrets,
)
from blackboard.subjects import (
    blob_stream,
    dead_stream,
    memory_stream,
    presence_bucket,
    retry_subject,
    state_bucket,
    subject_matches,
)

logger = logging.getLogger(__name__)

STEPS = 256
"""Messages that are looked at in search of one that may be shown; a memory keeps 64 revisions."""
MAX_FILTERS = 16
CODES: Sequence[tuple[type[BlackboardError], int]] = (
    (DeniedError, 403),
    (InvalidError, 400),
    (RetryableError, 503),
    (BlackboardError, 500),
)
"""What stands in an answer for an error, as in HTTP; the first that fits."""

Serve = Callable[["Caller", str, Body], Awaitable[bytes]]


class Caller(msgspec.Struct, frozen=True):
    """Who asks, and what it may."""

    rights: Rights

    @property
    def agent(self) -> str:
        """Its name."""
        return self.rights.agent

    def denied(self, what: str) -> DeniedError:
        """The error for something that no right allows."""
        return DeniedError(
            f"agent {self.agent!r} may not {what} on board {self.rights.board!r}: "
            "that takes an operator's credential"
        )


class Gate:
    """Answers the requests of one board's agents.

    Args:
        connection: The steward's.
        board: The board.
        roster: Who may do what.
        ledger: Told of everything that was served, before the answer leaves; what it cannot record
            is not served. And of what was denied.
    """

    def __init__(self, connection: Connection, board: str, roster: Roster, ledger: Ledger) -> None:
        self._connection = connection
        self._board = board
        self._roster = roster
        self._ledger = ledger
        self._memories = memory_stream(board)
        self._consumers = Consumers(connection, board)
        self._verbs: Mapping[str, Serve] = {
            "STREAM.CREATE": self._presence,
            "STREAM.INFO": self._info,
            "STREAM.NAMES": self._names,
            "STREAM.MSG.GET": self._leader_get,
            "STREAM.MSG.DELETE": self._delete,
            "DIRECT.GET": self._get,
            "CONSUMER.CREATE": self._create,
            "CONSUMER.INFO": self._consumer,
            "CONSUMER.DELETE": self._end,
        }

    async def answer(self, subject: str, body: bytes) -> Answer:
        """Serve one request, or say why not."""
        agent = subject.rsplit(".", 1)[-1]
        verb = "?"
        try:
            request = decode_record(body, ApiRequest)
            verb = checked_subject(request.verb)
            rights = self._roster.rights(agent)
            if rights is None:
                raise InvalidError(f"{agent!r} speaks to JetStream itself")
            caller = Caller(rights)
            serve, rest = self._find(caller, verb)
            return await serve(caller, rest, request.body)
        except NoStreamError as error:
            return encode_record(Refusal(Failure(404, STREAM_MISSING, str(error))))
        except BrokerError as error:
            return encode_record(Refusal(Failure(error.code, error.code, str(error))))
        except BlackboardError as error:
            if isinstance(error, DeniedError):
                self._ledger.note(Denied(agent=agent, act=verb, what="", missing=str(error)))
            return next(code for kind, code in CODES if isinstance(error, kind)), str(error)
        except Exception as error:
            logger.exception("a request failed")
            return 500, f"{type(error).__name__}; see the steward's log"

    def _find(self, caller: Caller, verb: str) -> tuple[Serve, str]:
        for known, serve in self._verbs.items():
            if verb == known or verb.startswith(f"{known}."):
                return serve, verb[len(known) + 1 :]
        raise caller.denied(f"use {verb!r}")

    async def enforce(self) -> None:
        """Hold the consumers that were made against the rights in force now."""
        await self._consumers.enforce(self._roster.all)

    async def _create(self, caller: Caller, rest: str, body: Body) -> bytes:
        async def announce(config: Mapping[str, Any]) -> None:
            stream = rest.partition(".")[0]
            info = await self._connection.stream(stream)
            last = 0 if info is None else info.state.last_seq
            await self._ledger.noted(follow_of(caller.agent, stream, config, last))

        answer = await self._consumers.create(caller.rights, rest, body, announce)
        if self._roster.all.get(caller.agent) != caller.rights:
            # Rights changed while it was being made: whoever cut the others did not see this one.
            await self.enforce()
        return answer

    async def _consumer(self, caller: Caller, rest: str, _: Body) -> bytes:
        return await self._consumers.info(caller.rights, rest)

    async def _end(self, caller: Caller, rest: str, _: Body) -> bytes:
        stream, name = rest.partition(".")[::2]
        answer, reached = await self._consumers.delete(caller.rights, rest)
        info = await self._connection.stream(stream)
        # Between the look and the end it may have been sent what came in that moment.
        most = 0 if info is None else info.state.last_seq
        self._ledger.note(
            Delivered(
                agent=caller.agent,
                stream=stream,
                consumer=name,
                sequence=reached,
                most=most,
                ended=True,
            )
        )
        return answer

    async def _info(self, caller: Caller, stream: str, body: Body) -> bytes:
        """How full a stream is and how it is set; which subjects it has is nobody's business."""
        wanted = (body or {}).get("subjects_filter")
        if wanted is not None and not (isinstance(wanted, str) and _is_own(caller.rights, wanted)):
            raise caller.denied(f"list the subjects {wanted!r}")
        known = {
            self._memories,
            blob_stream(self._board),
            dead_stream(self._board),
            f"KV_{presence_bucket(self._board)}",
            f"KV_{state_bucket(self._board)}",
        }
        if stream not in known:
            raise caller.denied(f"look at stream {stream!r}")
        answer = await self._connection.api(
            f"STREAM.INFO.{stream}", {"subjects_filter": wanted} if wanted else None
        )
        return without_secrets(answer)

    async def _presence(self, caller: Caller, stream: str, _: Body) -> bytes:
        """Make the stream of the cards again, as it has to be; an agent misses it first."""
        if stream != f"KV_{presence_bucket(self._board)}":
            raise caller.denied(f"make stream {stream!r}")
        limits = await limits_of(self._connection, self._board)
        await create_presence(self._connection, self._board, limits)
        return b"{}"

    async def _names(self, caller: Caller, _: str, __: Body) -> bytes:
        return encode_record(Names(total=1, streams=(memory_stream(caller.rights.board),)))

    async def _leader_get(self, caller: Caller, stream: str, body: Body) -> bytes:
        found = await self._find_message(caller, stream, Wanted.read(body), leader=True)
        if found is None:
            return encode_record(Refusal(Failure(404, 10037, "no message found")))
        check_size([found])
        await self._ledger.noted(_read_of(caller, "get", found))
        return msgspec.json.encode({"message": stored(found)})

    async def _get(self, caller: Caller, rest: str, body: Body) -> bytes:
        stream, _, subject = rest.partition(".")
        if stream == blob_stream(self._board):
            messages = await self._chunk(caller, subject)
        elif subject:
            wanted = Wanted(last_by_subj=subject)
            found = await self._find_message(caller, stream, wanted, leader=False)
            messages = [] if found is None else [found]
        else:
            wanted = Wanted.read(body)
            if wanted.multi_last:
                messages = await self._each(caller, stream, wanted)
            else:
                found = await self._find_message(caller, stream, wanted, leader=False)
                messages = [] if found is None else [found]
        check_size(messages)
        await self._ledger.noted(*(_read_of(caller, "get", message) for message in messages))
        return encode_record(ServedMessages(tuple(served(message) for message in messages)))

    async def _chunk(self, caller: Caller, subject: str) -> list[Message]:
        """A chunk of large content: its name is a secret that only its memory tells."""
        parts = subject.split(".")
        readable = {grant.access for grant in (*caller.rights.read, *caller.rights.write)}
        literal = not {"*", ">"} & set(parts) and len(parts) == 6
        if not literal or parts[:2] != ["blob", self._board]:
            raise caller.denied(f"get {subject!r}")
        if parts[2] not in readable and "*" not in readable:
            raise DeniedError(
                f"agent {caller.agent!r} may not read anything under label {parts[2]!r} on board "
                f"{self._board!r}; add a read right to its roles in the access policy"
            )
        found = await self._connection.last(blob_stream(self._board), subject)
        return [] if found is None else [found]

    async def _each(self, caller: Caller, stream: str, wanted: "Wanted") -> list[Message]:
        self._check_stream(caller, stream)
        if len(wanted.multi_last) > MAX_FILTERS:
            raise InvalidError(f"ask for at most {MAX_FILTERS} filters at once")
        found: list[Message] = []
        for subject in wanted.multi_last:
            for one in self._readable(caller.rights, subject):
                found += await self._connection.last_of_each(stream, one, before=wanted.up_to_time)
        shown = {one.sequence: one for one in found if _may_see(caller.rights, one)}
        return sorted(shown.values(), key=lambda one: -one.sequence)

    async def _find_message(
        self, caller: Caller, stream: str, wanted: "Wanted", *, leader: bool
    ) -> Message | None:
        self._check_stream(caller, stream)
        api = self._connection
        if wanted.last_by_subj is not None:
            last = api.leader_last if leader else api.last
            found = [
                await last(stream, one)
                for one in self._readable(caller.rights, wanted.last_by_subj)
            ]
            there = [one for one in found if one is not None]
            seen = [one for one in there if _may_see(caller.rights, one)]
            if there and not seen:
                raise _others(caller.rights, there[0].subject)
            return max(seen, key=lambda one: one.sequence, default=None)
        if wanted.next_by_subj is not None:
            return await self._next(caller.rights, stream, wanted, leader=leader)
        at_sequence = api.leader_at_sequence if leader else api.at_sequence
        message = await at_sequence(stream, wanted.seq)
        return message if message is not None and _may_see(caller.rights, message) else None

    async def _next(
        self, rights: Rights, stream: str, wanted: "Wanted", *, leader: bool
    ) -> Message | None:
        next_after = self._connection.leader_next_after if leader else self._connection.next_after
        best: Message | None = None
        for subject in self._readable(rights, wanted.next_by_subj or ""):
            sequence = wanted.seq
            for _ in range(STEPS):
                message = await next_after(stream, subject, sequence)
                if message is None or (best is not None and message.sequence > best.sequence):
                    break
                if _may_see(rights, message):
                    best = message
                    break
                sequence = message.sequence + 1
        return best

    def _check_stream(self, caller: Caller, stream: str) -> None:
        if stream != self._memories:
            raise caller.denied(f"read stream {stream!r}")

    def _readable(self, rights: Rights, subject: str) -> tuple[str, ...]:
        """What a filter selects of what may be read.

        Raises:
            DeniedError: Nothing.
        """
        if subject.startswith("claim."):
            found = filters.allowed(subject, filters.claims(rights))
        else:
            direct = (*filters.reads(rights), *filters.own(rights))
            served = (one for one, _ in filters.served(rights))
            found = filters.allowed(subject, (*direct, *served))
        if not found:
            raise DeniedError(
                f"agent {rights.agent!r} may not read {subject!r}: it has no such right; "
                "add a read right to its roles in the access policy"
            )
        return found

    async def _delete(self, caller: Caller, stream: str, body: Body) -> bytes:
        """Drop a wish for a retry that was done; nothing else may be deleted."""
        if stream != dead_stream(self._board):
            raise caller.denied(f"delete messages of {stream!r}")
        sequence = Wanted.read({"seq": (body or {}).get("seq")}).seq
        message = await self._connection.leader_at_sequence(stream, sequence)
        own = retry_subject(self._board, caller.agent, "*")
        if message is None or not subject_matches(own, message.subject):
            raise caller.denied(f"delete message {sequence} of {stream!r}")
        await self._connection.delete(stream, sequence, erase=False)
        return b'{"success": true}'


def _read_of(caller: Caller, verb: str, message: Message) -> Served:
    return Served(agent=caller.agent, verb=verb, what=message.subject, revision=message.sequence)


def _is_own(rights: Rights, subject: str) -> bool:
    parts = subject.split(".")
    literal = not {"*", ">"} & set(parts)
    return literal and len(parts) > 4 and parts[1] == rights.board and parts[3] == rights.agent


def _may_see(rights: Rights, message: Message) -> bool:
    """Whether a message may be shown as it is stored."""
    subject = message.subject
    if subject.startswith("claim."):
        return bool(filters.allowed(subject, filters.claims(rights)))
    if filters.allowed(subject, (*filters.reads(rights), *filters.own(rights))):
        return True
    users = {user for one, user in filters.served(rights) if subject_matches(one, subject)}
    if not users:
        return False
    try:
        memory = to_memory(message)
    except InvalidError:
        return False
    # A tombstone says no more than that something is gone, which its readers have to learn.
    return memory.gone is not None or memory.user in users


def _others(rights: Rights, subject: str) -> DeniedError:
    users = sorted({user for one, user in filters.served(rights) if subject_matches(one, subject)})
    topic = ".".join(subject.split(".")[4:-1])
    return DeniedError(
        f"agent {rights.agent!r} may not read this memory of topic {topic!r} on board "
        f"{rights.board!r}: it may read those about {', '.join(users[:5])} only"
    )
