"""Holding a board to its retention policy, also for those who do not follow it themselves.

Writers that use the library have a memory end by itself. What was stored before the policy was, or
by an agent that sets no end, is found here: the stream is in the order of time, so it is read from
where the last look ended up to what is not old enough, once for each age that a rule names.

What goes gets a tombstone, and can be undone for a day. Under a personal label it is erased as what
was forgotten is, by an order with a receipt for all that went at once.
"""

import logging
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

import anyio

from blackboard.envelope import is_expired
from blackboard.errors import BlackboardError, ConflictError, InvalidError
from blackboard.jetstream import Message, Start, follow
from blackboard.keeping import policy_of
from blackboard.lease import Claim
from blackboard.lineage import gist_of
from blackboard.retention import Retention, Rule
from blackboard.session import Desk
from blackboard.steward.departure import Departure, Due
from blackboard.steward.sessions import Sessions
from blackboard.subjects import CONSOLIDATOR, FORGET, Address, Pattern, Ref, reference_filter

logger = logging.getLogger(__name__)

LOOK_S = 60.0
"""How late something may go."""
PERSONAL = 15
"""So many times later what is personal may go, if nothing says itself when it ends: each order
reads several streams, and leaves a receipt."""
LEASE_S = 10.0
NOTED = 20_000
"""Messages after which it is noted how far the board was looked at."""
REST = 20
"""A look at sessions is followed by so many times as long without one."""
SUMMARIES = "summaries"


class Retaining:
    """The retention of one board.

    Args:
        desk: The steward's place.
        now: The time, to be held against the broker's stamps.
        look_s: How often it looks.
    """

    def __init__(self, desk: Desk, *, now: Callable[[], datetime], look_s: float = LOOK_S) -> None:
        self._desk = desk
        self._log = desk.log
        self._now = now
        self._look_s = look_s
        self._sessions = Sessions(desk.log)
        self._personal_at = 0.0
        self._sessions_at = 0.0

    async def run(self) -> None:
        """Look again and again; never returns.

        Raises:
            BlackboardError: The broker does not answer, or refuses; call it again.
        """
        while True:
            await anyio.sleep(self._look_s)
            policy = await policy_of(self._log.connection, self._log.board)
            if policy is not None and policy.rules:
                await self._alone(policy)

    async def _alone(self, policy: Retention) -> None:
        """Look once, if no other steward does."""
        claim = Claim(self._log, "retention", access=FORGET, digest="retention", lease_s=LEASE_S)
        if not await claim.take():
            return
        failure: BlackboardError | None = None
        try:
            async with anyio.create_task_group() as group:

                async def keep() -> None:
                    await claim.keep()
                    group.cancel_scope.cancel()

                group.start_soon(keep)
                try:
                    await self.look(policy)
                except BlackboardError as error:
                    failure = error
                group.cancel_scope.cancel()
        finally:
            await claim.release()
        if isinstance(failure, ConflictError):
            logger.info("board %s: %s", self._log.board, failure)
        elif failure is not None:
            raise failure

    async def look(self, policy: Retention) -> None:
        """Take away what has to go now.

        Raises:
            ConflictError: Another steward does the same; what is left goes the next time.
            UnavailableError: The broker does not answer.
        """
        departure = Departure(self._desk, policy, self._now)
        await departure.begin()
        personal = anyio.current_time() >= self._personal_at
        for age_s in sorted({rule.max_age_s for rule in policy.rules if rule.max_age_s}):
            await _Ages(self._desk, departure, self._now, age_s, personal=False).run()
            if personal:
                await _Ages(self._desk, departure, self._now, age_s, personal=True).run()
        if any(rule.before == "summarise" for rule in policy.rules):
            await _Summaries(self._desk, departure, self._now).run()
        await self._sessions.count(policy)
        if self._sessions.suspected(personal=personal):
            await self._shorten(departure, personal=personal)
        if personal:
            self._personal_at = anyio.current_time() + PERSONAL * self._look_s

    async def _shorten(self, departure: Departure, *, personal: bool) -> None:
        """Take away what is too much in sessions."""
        began = anyio.current_time()
        if began < self._sessions_at:
            return
        for one in await self._sessions.surplus(personal=personal):
            head, tip = await self._log.look(one.ref)
            if head is None or head.gone is not None or head.revision != one.revision:
                continue
            departure.add(Due(one.ref, one.rule, tip, head))
            if departure.full:
                await departure.leave({})
        await departure.leave({})
        self._sessions_at = anyio.current_time() + REST * (anyio.current_time() - began)


class _Look:
    """A reading of the board from where the last one ended."""

    name = ""
    headers_only = True

    def __init__(
        self, desk: Desk, departure: Departure, now: Callable[[], datetime], subject: str
    ) -> None:
        self._log = desk.log
        self._departure = departure
        self._policy = departure.policy
        self._now = now
        self._subject = subject
        self._lives: dict[Ref, tuple[int, datetime] | None] = {}

    async def _read(
        self, see: Callable[[Message], Awaitable[None]], until: datetime | None
    ) -> None:
        """Give each message that is not younger than `until` to `see`, and note how far it is."""
        position = noted = self._departure.tally.positions.get(self.name, 0)
        first = await self._log.reads.next_after(self._subject, position + 1)
        # Asked first, because mostly there is nothing and a consumer costs more.
        if first is None or (until is not None and first.stored > until):
            return
        async with follow(
            self._log.connection,
            self._log.stream,
            self._subject,
            Start.after(position),
            headers_only=self.headers_only,
        ) as follower:
            while follower.pending:
                message = await follower.step()
                if message is None:
                    continue
                if until is not None and message.stored > until:
                    break
                await see(message)
                position = message.sequence
                if self._departure.full or position - noted >= NOTED:
                    await self._departure.leave({self.name: position})
                    noted = position
                    self._lives.clear()
        await self._departure.leave({self.name: position})

    async def _life(self, ref: Ref) -> tuple[int, datetime] | None:
        """The first revision of a memory that is still there, since it was last taken back."""
        if ref not in self._lives:
            found: tuple[int, datetime] | None = None
            subject = reference_filter(self._log.board, ref)
            sequence = 0
            while message := await self._log.reads.next_after(subject, sequence + 1):
                sequence = message.sequence
                if not _is_honest(message):
                    continue
                if "Bb-Gone" in message.headers:
                    found = None
                elif found is None:
                    found = sequence, message.stored
            self._lives[ref] = found
        return self._lives[ref]


class _Ages(_Look):
    """What is older than one age."""

    def __init__(
        self,
        desk: Desk,
        departure: Departure,
        now: Callable[[], datetime],
        age_s: float,
        *,
        personal: bool,
    ) -> None:
        super().__init__(desk, departure, now, f"mem.{desk.log.board}.>")
        self.name = f"{'personal ' if personal else ''}{age_s:g}"
        self._age_s = age_s
        self._personal = personal
        self._rules: dict[tuple[str, str], Rule | None] = {}

    async def run(self) -> None:
        """Read on to what is not old enough."""
        await self._read(self._see, self._now() - timedelta(seconds=self._age_s))

    async def _see(self, message: Message) -> None:
        if "Bb-Gone" in message.headers or not _is_honest(message):
            return
        try:
            address = Address.parse(message.subject)
        except InvalidError:
            return
        rule = self._rule(address.topic, address.access)
        if rule is None:
            return
        ref = address.ref
        life = await self._life(ref)
        if life is None or life[0] > message.sequence:
            return  # it was taken back
        head, tip = await self._log.look(ref)
        if head is None or head.gone is not None:
            return
        # Its later revisions are looked at too: what a priority kept may have lost it since.
        if life[0] == message.sequence or not (self._personal or is_expired(head)):
            self._departure.add(Due(ref, rule, tip, head))

    def _rule(self, topic: str, access: str) -> Rule | None:
        """The rule that holds there, if this reading is for it."""
        if (topic, access) not in self._rules:
            if len(self._rules) >= NOTED:
                self._rules.clear()
            rule = self._policy.rule_of(topic, access)
            if rule is not None and (
                rule.max_age_s != self._age_s or self._policy.is_personal(access) != self._personal
            ):
                rule = None
            self._rules[topic, access] = rule
        return self._rules[topic, access]


class _Summaries(_Look):
    """What was old enough already when a summary came to stand for it."""

    name = SUMMARIES
    headers_only = False

    def __init__(self, desk: Desk, departure: Departure, now: Callable[[], datetime]) -> None:
        super().__init__(
            desk, departure, now, Pattern(">").subject(desk.log.board, agent=CONSOLIDATOR)
        )

    async def run(self) -> None:
        """Read the summaries that came."""
        await self._read(self._see, None)

    async def _see(self, message: Message) -> None:
        known = gist_of(message)
        if known is None or known[0].gone is not None or known[1].kind != "summary":
            return
        summary, gist = known
        for source in gist.sources:
            rule = self._policy.rule_of(source.topic, summary.access)
            if rule is None or rule.before != "summarise" or rule.max_age is None:
                continue
            head, tip = await self._log.look(source.unpinned)
            if head is None or head.gone is not None or head.revision != source.revision:
                continue
            life = await self._life(source.unpinned)
            if life is not None and life[1] <= self._now() - rule.max_age:
                self._departure.add(Due(source.unpinned, rule, tip, head), summarised=True)


def _is_honest(message: Message) -> bool:
    """Whether its author is the one that its subject names."""
    parts = message.subject.split(".")
    return len(parts) > 3 and message.headers.get("Bb-Agent") == parts[3]
