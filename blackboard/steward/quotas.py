"""Quotas: an agent that sends more than it may is cut off, whatever it uses to send it.

The broker has no limits per user, but it counts what each connection sends. So the steward looks
once a second; whoever is above the quota loses its connection, and again as soon as it goes on, so
that in the end not much more comes through than it may send. Of too many connections the newest go.
"""

import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence

import anyio

from blackboard.access.identity import ACCESS_STREAM, rights_subject
from blackboard.access.rights import Rights
from blackboard.errors import BlackboardError, RetryableError
from blackboard.jetstream import Connection, Start, follow
from blackboard.jetstream.system import Client, System
from blackboard.roster import document_of

logger = logging.getLogger(__name__)

LOOK_S = 1.0
WINDOW_S = 10.0
"""What a quota per second is counted over: so long somebody may send it all at once."""

Note = Callable[[Rights, str], Awaitable[None]]
"""Told whom a connection was taken from, and why."""


class Bucket:
    """What somebody has sent lately, as a level that drains at the rate it may send."""

    def __init__(self) -> None:
        self.level = 0.0
        self._at = anyio.current_time()

    def add(self, amount: float, rate: float) -> bool:
        """Add what was sent since the last look; whether it is more than may be."""
        time = anyio.current_time()
        self.level = max(0.0, self.level - (time - self._at) * rate) + amount
        self._at = time
        return self.level > rate * WINDOW_S


class Quotas:
    """Holds everybody who is connected to their quotas.

    Args:
        system: The broker's system account.
        members: The rights of all agents, by their public nkey; looked at each time.
        note: Told of each connection that was taken.
    """

    def __init__(self, system: System, members: Mapping[str, Rights], note: Note) -> None:
        self._system = system
        self._members = members
        self._note = note
        self._sent: dict[tuple[str, int], tuple[int, int]] = {}
        self._messages: defaultdict[str, Bucket] = defaultdict(Bucket)
        self._bytes: defaultdict[str, Bucket] = defaultdict(Bucket)

    async def run(self) -> None:
        """Look again and again until cancelled."""
        while True:
            try:
                await self.look()
            except BlackboardError as error:
                logger.warning("cannot look who sends how much: %s", error)
            await anyio.sleep(LOOK_S)

    async def look(self) -> None:
        """Look once, and cut off whoever is above a quota."""
        clients = await self._system.clients()
        by_key: defaultdict[str, list[Client]] = defaultdict(list)
        for client in clients:
            if client.authorized_user in self._members:
                by_key[client.authorized_user].append(client)
        before, self._sent = self._sent, {}
        for key, own in by_key.items():
            rights = self._members[key]
            await self._hold(rights, own, self._grown(own, before))

    def _grown(
        self, clients: Sequence[Client], before: Mapping[tuple[str, int], tuple[int, int]]
    ) -> tuple[int, int]:
        """Messages and bytes that came since the last look."""
        messages = size = 0
        for client in clients:
            place = client.server, client.cid
            was = before.get(place, (0, 0))
            self._sent[place] = client.in_msgs, client.in_bytes
            messages += client.in_msgs - was[0]
            size += client.in_bytes - was[1]
        return messages, size

    async def _hold(
        self, rights: Rights, clients: Sequence[Client], grown: tuple[int, int]
    ) -> None:
        quota = rights.quota
        messages, size = grown
        rate = quota.messages_per_s
        if rate is not None:
            largest = quota.message_bytes
            above = self._messages[rights.key].add(messages, rate)
            if largest is not None:
                above |= self._bytes[rights.key].add(size, rate * largest)
            if above:
                await self._cut(rights, clients, f"it sends more than {rate:g} messages a second")
                return
        if quota.connections is not None and len(clients) > quota.connections:
            newest_first = sorted(clients, key=lambda one: one.start, reverse=True)
            surplus = newest_first[: len(clients) - quota.connections]
            await self._cut(rights, surplus, f"it has more than {quota.connections} connections")

    async def _cut(self, rights: Rights, clients: Sequence[Client], why: str) -> None:
        logger.warning("agent %s of board %s is cut off: %s", rights.agent, rights.board, why)
        for client in clients:
            await self._system.kick(client)
        await self._note(rights, why)


async def keep_quotas(connection: Connection, system: System, note: Note) -> None:
    """Hold every agent of every board to its quota until cancelled.

    Args:
        connection: The steward's.
        system: The broker's system account.
        note: Told of each agent that was cut off.
    """
    members: dict[str, Rights] = {}
    async with anyio.create_task_group() as group:
        group.start_soon(Quotas(system, members, note).run)
        while True:
            try:
                await _learn(connection, members)
            except RetryableError as error:
                logger.debug("quotas.waiting", extra={"error": str(error)})
            await anyio.sleep(LOOK_S)


async def _learn(connection: Connection, members: dict[str, Rights]) -> None:
    """Follow the access policy: who has which key, and what quota."""
    subject = rights_subject("*", "*")
    keys: dict[str, str] = {}
    async with follow(connection, ACCESS_STREAM, subject, Start.newest()) as follower:
        async for message in follower:
            members.pop(keys.pop(message.subject, ""), None)
            rights = document_of(message)
            if rights is not None and rights.key:
                keys[message.subject] = rights.key
                members[rights.key] = rights
