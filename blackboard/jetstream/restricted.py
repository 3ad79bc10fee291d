"""A connection with limited rights: what the broker cannot check, the steward does for it.

By its subject the broker checks that an agent writes as itself and gets single memories that it may
read. Whatever else JetStream offers (consumers, reads by sequence or time, the state of streams)
carries its object in the body of a request or shows more than one object, so agents have no right
to it: the steward, who knows the policy, is asked instead, in the same words.
"""

import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, cast

import anyio
import msgspec
from nats.aio.msg import Msg

from blackboard.access import filters
from blackboard.access.identity import (
    ACCESS_STREAM,
    MAX_READ_TOKENS,
    read_subject,
    rights_subject,
)
from blackboard.access.rights import Rights
from blackboard.codec import decode_record, encode_record
from blackboard.errors import (
    BlackboardError,
    DeniedError,
    InvalidError,
    RetryableError,
    TooLargeError,
    UnavailableError,
)
from blackboard.jetstream.api import to_message
from blackboard.jetstream.connection import Connection
from blackboard.jetstream.errors import NoStreamError
from blackboard.jetstream.message import Message, Outgoing, rfc3339
from blackboard.jetstream.service import refusal
from blackboard.records import ApiRequest, ServedMessages
from blackboard.subjects import SHARED, is_id, service_subject

logger = logging.getLogger(__name__)

PATIENCE_S = 2.0
"""How long a steward may be away before that is an error: it reconnects like everybody else."""
RETRY_S = 0.1
MAX_ASKED = 32
"""Requests to the steward at once; it refuses an agent that has too many."""
DENIED, BUSY = 403, 429
Get = Callable[[], Awaitable[Message | None]]
NOBODY = (
    "no steward answers for board {board!r}, and agents with limited rights cannot do this without "
    "one: `blackboard up` runs one, beside a broker of your own `python -m blackboard.steward` does"
)


@dataclass(frozen=True, slots=True)
class _Reach:
    """What may be read, and how: made once from rights, because it is asked for with every get."""

    direct: tuple[str, ...] = ()
    served: tuple[str, ...] = ()

    @classmethod
    def of(cls, rights: Rights) -> "_Reach":
        """What rights reach."""
        direct, served = filters.by_broker(rights), filters.by_steward(rights)
        users = (wanted for wanted, _ in filters.served(rights))
        return cls(
            (*filters.reads(direct), *filters.own(direct), *filters.claims(direct)),
            (*filters.reads(served), *filters.own(served), *filters.leases(served), *users),
        )

    def ways(self, subject: str) -> tuple[tuple[str, ...], bool]:
        """What to get at the broker, and whether the steward has to be asked as well."""
        direct = filters.allowed(subject, self.direct)
        mapped = tuple(one for one in direct if one.count(".") < MAX_READ_TOKENS)
        if any(filters.covers(one, subject) for one in mapped):
            return mapped, False
        served = any(filters.intersection(subject, wanted) for wanted in self.served)
        return mapped, served or len(mapped) < len(direct)


class Restricted(Connection):
    """A connection of an agent that may only do what the access policy grants it."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        if self.identity is None:
            raise AssertionError("limited rights are those of an identity")
        self.board = self.identity.board
        self.agent = self.identity.agent
        self._rights: Rights | None = None
        self._reach = _Reach()
        self._known_at = 0.0
        self._learning = anyio.Lock()
        self._asking = anyio.CapacityLimiter(MAX_ASKED)
        self._absent = False

    def reconnected(self) -> None:
        """Be patient again: the steward reconnects too."""
        self._absent = False
        super().reconnected()

    async def rights(self, *, newer_than: float = 0.0) -> Rights:
        """What this agent may do, as the policy in force says.

        Args:
            newer_than: Read again what was read before this time (of the event loop).

        Raises:
            DeniedError: The policy does not know this agent.
            UnavailableError: No answer in time.
        """
        if self._rights is not None and self._known_at >= newer_than:
            return self._rights
        async with self._learning:
            if self._rights is None or self._known_at < newer_than:
                self._rights = await self._read_rights()
                self._reach = _Reach.of(self._rights)
                self._known_at = anyio.current_time()
            return self._rights

    async def _read_rights(self) -> Rights:
        wanted = rights_subject(self.board, self.agent)
        document = await self._get(ACCESS_STREAM, wanted)
        if document is None or not document.data:
            raise DeniedError(
                f"the access policy in force has no agent {self.agent!r} on board {self.board!r}; "
                "its operator adds one with `blackboard access add`"
            )
        return decode_record(document.data, Rights)

    async def check_write(self, access: str, topic: str) -> None:
        """Refuse a write that the broker would refuse, and say which right is missing.

        Where the rights cannot be read now, it is the broker that refuses.

        Raises:
            DeniedError: There is no such right.
        """
        try:
            rights = await self.rights()
        except UnavailableError:
            return
        if not rights.may_write(access, topic):
            (await self._anew()).check_write(access, topic)

    async def publish(self, message: Outgoing, *, expected: int | None = None) -> int:
        """Store one message; see `Connection.publish`.

        Raises:
            TooLargeError: It is above what this agent may send.
        """
        self._check_size(message)
        return await super().publish(message, expected=expected)

    async def publish_batch(self, messages: Sequence[Outgoing]) -> int:
        """Store messages, all or none; see `Connection.publish_batch`.

        Raises:
            TooLargeError: One of them is above what this agent may send.
        """
        for message in messages:
            self._check_size(message)
        return await super().publish_batch(messages)

    def _check_size(self, message: Outgoing) -> None:
        limit = None if self._rights is None else self._rights.quota.message_bytes
        if limit is None:
            return
        size = len(message.data) + sum(len(k) + len(v) + 4 for k, v in message.headers.items())
        if size > limit:
            raise TooLargeError(
                f"a message of {size} bytes; agent {self.agent!r} may send {limit}: put less, or "
                "have message_bytes raised in the access policy"
            )

    async def check_read(self, subject: str) -> None:
        """Refuse to read a filter of which nothing may be read.

        Raises:
            DeniedError: There is no such right.
        """
        await self.rights()
        if any(self._reach.ways(subject)) or not subject.startswith("mem."):
            return  # what is nobody's memory, the broker or the steward decides on
        await self._anew()
        if not any(self._reach.ways(subject)):
            raise _unreadable(self.agent, self.board, subject)

    async def _anew(self) -> Rights:
        """The rights once more, before something is refused: it may have been granted just now."""
        return await self.rights(newer_than=anyio.current_time())

    async def api(self, verb: str, body: object = None) -> bytes:
        """Have the steward call the JetStream API, within this agent's rights.

        Raises:
            DeniedError: This agent may not; the text names the missing right.
            BrokerError: The broker refused.
            NoStreamError: The stream does not exist.
            UnavailableError: No answer in time, or there is no steward.
        """
        answer = await self._ask(verb, body)
        self.check_answer(answer, verb)
        return answer

    async def _ask(self, verb: str, body: object) -> bytes:
        answer = await self._answer(encode_record(ApiRequest(verb, _fields(body))))
        refused = refusal(answer.headers, answer.data)
        if refused is None:
            return answer.data
        code, text = refused
        if code == DENIED:
            raise DeniedError(text)
        if code == 400:
            raise InvalidError(text)
        raise UnavailableError(text)

    async def _answer(self, body: bytes) -> Msg:
        """What the steward answers; one that is just coming back is waited for.

        Raises:
            UnavailableError: There is none, or no answer in time.
        """
        subject = service_subject(self.board, "api", self.agent)
        patient_until = anyio.current_time() + PATIENCE_S
        async with self._asking:
            while True:
                try:
                    answer = await self.request(subject, body)
                except NoStreamError as error:
                    # Once it was waited for in vain, whoever asks next is told at once.
                    if self._absent or anyio.current_time() > patient_until:
                        self._absent = True
                        raise UnavailableError(NOBODY.format(board=self.board)) from error
                else:
                    self._absent = False
                    # Other processes of this agent ask too much; at some time that is an error.
                    busy = (refusal(answer.headers, answer.data) or (0,))[0] == BUSY
                    if not busy or anyio.current_time() > patient_until:
                        return answer
                await anyio.sleep(RETRY_S * random.uniform(0.5, 1.5))

    async def last(self, stream: str, subject: str) -> Message | None:
        """Read the newest message that a filter selects and this agent may read, or None.

        Raises:
            DeniedError: It may read nothing of what the filter selects.
            UnavailableError: No answer in time.
        """
        kind = subject.split(".", 1)[0]
        if kind not in ("mem", "claim"):
            return await self._ask_for(stream, subject)
        newest = await self._newest(stream, subject)
        if newest is not None and newest.headers.get("Bb-Gone") == "moved":
            # The copy may lie under a label that was looked at a moment too early.
            newest = await self._newest(stream, subject)
        return newest

    async def _newest(self, stream: str, subject: str) -> Message | None:
        await self.rights()
        direct, served = self._reach.ways(subject)
        if not direct and not served:
            await self._anew()
            direct, served = self._reach.ways(subject)
        if not direct and not served:
            raise _unreadable(self.agent, self.board, subject)
        gets = [partial(self._direct, stream, wanted) for wanted in direct]
        asking = partial(self._ask_for, stream, subject)
        if not served:
            return await _newest_of(gets)
        if not direct:
            return await asking()
        if is_id(subject.rpartition(".")[2]):
            # It lives under one label at a time: where it is found, the steward knows no newer one.
            newest = await _newest_of(gets)
            if newest is not None and "Bb-Gone" not in newest.headers:
                return newest
        return await _newest_of([*gets, asking])

    async def _ask_for(self, stream: str, subject: str) -> Message | None:
        return _one(await self._served(f"DIRECT.GET.{stream}.{subject}", None))

    async def _direct(self, stream: str, subject: str) -> Message | None:
        try:
            return await self._get(stream, subject)
        except DeniedError:
            await self._anew()  # the broker holds this agent to other rights than were read here
        if not any(self._reach.ways(subject)):
            raise _unreadable(self.agent, self.board, subject)
        return await self._ask_for(stream, subject)

    async def _get(self, stream: str, subject: str) -> Message | None:
        return to_message(await self.request(read_subject(self.board, self.agent, stream, subject)))

    async def at_sequence(self, stream: str, sequence: int) -> Message | None:
        """Read one message by its sequence; None when it is gone, or not for this agent."""
        return _one(await self._served(f"DIRECT.GET.{stream}", {"seq": sequence}))

    async def next_after(self, stream: str, subject: str, sequence: int) -> Message | None:
        """Read the first message from `sequence` on that a filter selects and it may read."""
        body = {"seq": sequence, "next_by_subj": subject}
        return _one(await self._served(f"DIRECT.GET.{stream}", body))

    async def last_of_each(
        self, stream: str, subject: str, *, before: datetime | None = None
    ) -> list[Message]:
        """Read the newest message of every subject that it may read; see `Api.last_of_each`."""
        body: dict[str, Any] = {"multi_last": [subject], "batch": 1024}
        if before is not None:
            body["up_to_time"] = rfc3339(before)
        return await self._served(f"DIRECT.GET.{stream}", body)

    async def _served(self, verb: str, body: object) -> list[Message]:
        served = await self._ask(verb, body)
        self.check_answer(served, verb)
        answer = decode_record(served, ServedMessages)
        return [
            Message(one.subject, one.headers, one.data, one.sequence, one.stored)
            for one in answer.messages
        ]


async def _newest_of(gets: Sequence[Get]) -> Message | None:
    """The newest of several gets at once; their errors count when none of them found anything."""
    if len(gets) == 1:
        return await gets[0]()
    found: list[Message] = []
    failures: list[BlackboardError] = []

    async def one(get: Get) -> None:
        try:
            message = await get()
        except BlackboardError as error:
            failures.append(error)
        else:
            found.extend([] if message is None else [message])

    async with anyio.create_task_group() as group:
        for get in gets:
            group.start_soon(one, get)
    waited = [error for error in failures if isinstance(error, RetryableError)]
    if waited or (failures and not found):
        raise (waited or failures)[0]
    return max(found, key=lambda message: message.sequence, default=None)


def _fields(body: object) -> dict[str, Any] | None:
    return None if body is None else cast("dict[str, Any]", msgspec.to_builtins(body))


def _one(found: list[Message]) -> Message | None:
    return found[0] if found else None


def _unreadable(agent: str, board: str, subject: str) -> DeniedError:
    parts = subject.split(".")
    topic = ".".join(parts[4:-1]) if len(parts) > 5 else parts[-1]
    label = parts[2] if len(parts) > 2 else SHARED
    under = "" if label == "*" else f" under label {label!r}"
    return DeniedError(
        f"agent {agent!r} may not read topic {topic!r}{under} on board {board!r}: it has no such "
        "right; add a read right to its roles in the access policy"
    )
