"""Transactions that are ready at the same time go out as one atomic batch.

The broker syncs an atomic batch four times whatever its size, so a busy agent gains as much as it
has transactions waiting. Each stays all or nothing, because the whole batch is. If the batch is
refused, nothing of it was stored, and each transaction is sent again by itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import anyio

from blackboard.envelope import EXPECTED_SUBJECT
from blackboard.errors import BlackboardError, UnavailableError
from blackboard.jetstream import Outgoing
from blackboard.log import Log

MAX_MESSAGES = 1000
MAX_BYTES = 16 * 1024 * 1024
WORTH = 4
"""A batch of fewer single messages costs more than sending them one by one."""


@dataclass(slots=True, eq=False)
class Entry:
    """One transaction that waits to be sent."""

    messages: Sequence[Outgoing]
    subjects: frozenset[str]
    size: int
    alone: bool = False
    done: bool = False
    sequence: int = 0
    error: BlackboardError | None = None


class Commits:
    """Sends the transactions of one agent at one board."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._lock = anyio.Lock()
        self._waiting: dict[Entry, None] = {}  # in the order of arrival

    async def send(self, messages: Sequence[Outgoing]) -> int:
        """Store messages, all or none, and return the sequence of the last.

        Each carries its expected sequence.

        Raises:
            ConflictError: One of them moved; none was stored.
            BoardFullError: No room; none was stored.
            UnavailableError: No answer within 10 s; all stored or none.
        """
        subjects = frozenset(
            message.headers.get(EXPECTED_SUBJECT, message.subject) for message in messages
        )
        entry = Entry(messages, subjects, sum(len(message.data) for message in messages))
        self._waiting[entry] = None
        try:
            async with self._lock:
                while not entry.done:  # nobody took it along, or not with success
                    await self._lead(entry)
        finally:
            self._waiting.pop(entry, None)
        if entry.error is not None:
            raise entry.error
        return entry.sequence

    async def _lead(self, own: Entry) -> None:
        entries = self._together(own)
        for entry in entries:
            self._waiting.pop(entry, None)
        try:
            last = await self._log.send(
                [message for entry in entries for message in entry.messages]
            )
            for entry in reversed(entries):
                entry.sequence = last
                last -= len(entry.messages)
        except BlackboardError as error:
            if len(entries) > 1 and not isinstance(error, UnavailableError):
                # One of them is out of date; which one shows when each goes by itself.
                for entry in entries:
                    entry.alone = True
                return
            for entry in entries:
                entry.error = error
        for entry in entries:
            entry.done = True

    def _together(self, own: Entry) -> list[Entry]:
        """What goes out with `own`: nothing that is checked against the same sequence as another.

        The broker checks a batch against the state before it, so of two writes to one key in a
        batch the first would be lost.
        """
        entries = [own]
        if own.alone:
            return entries
        subjects, size, count = set(own.subjects), own.size, len(own.messages)
        for entry in self._waiting:
            if entry is own or not subjects.isdisjoint(entry.subjects):
                continue
            if size + entry.size > MAX_BYTES or count + len(entry.messages) > MAX_MESSAGES:
                continue
            subjects |= entry.subjects
            size += entry.size
            count += len(entry.messages)
            entries.append(entry)
        return entries if count >= WORTH or count > len(entries) else [own]
