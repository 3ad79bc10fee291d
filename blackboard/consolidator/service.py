"""The consolidator as a service: every board on the broker, as long as it is there.

Any number of them may serve a broker: a group is worked on by who holds its lease. What fails is
tried again, later each time, and holds up no other group.
"""

import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime, timedelta

import anyio
import anyio.lowlevel
import msgspec

from blackboard import clock
from blackboard.background import background
from blackboard.codec import decode_record
from blackboard.consolidate.extract import Said
from blackboard.consolidator.bench import LEASE_S, Bench, Outcome
from blackboard.consolidator.groups import AGENT, Candidate, Groups, Key
from blackboard.consolidator.plan import Due, due
from blackboard.consolidator.policy import Rules, read_rules
from blackboard.consolidator.spending import Spending, SpentError
from blackboard.consolidator.telling import MOST, Told, Waits, telling
from blackboard.consolidator.undoing import Undone
from blackboard.consolidator.work import work_on
from blackboard.consolidator.writers import Extractor, ModelWriter, Writer, Written
from blackboard.errors import BlackboardError, InvalidError
from blackboard.jetstream import Connection, Start, follow
from blackboard.keeping import policy_of
from blackboard.models import Model, Patience, open_model
from blackboard.service import RETRY_S, keep_boards, take_desk
from blackboard.session import Desk
from blackboard.settings import Settings
from blackboard.subjects import Pattern

logger = logging.getLogger(__name__)

TICK_S = 30.0
"""How late what is due may be taken up."""
AT_ONCE = 1
"""Groups that are condensed at the same time without a model: the index is what takes the time."""
REST = 0.5
"""Share of the time that a group took in which nothing is done: who searches gets a turn."""
LONGEST_REST_S = 1.0
AT_ONCE_MODEL = 4
FIRST_PAUSE_S = 30.0
LONGEST_PAUSE_S = 3600.0
MODEL_TRIES = 2
"""Requests of one call: the second where the endpoint does not know a parameter, or was busy."""
MODEL_S = 60.0
"""How long one call may take; then other groups have their turn."""
STRIDE = 64
TURN = "for its turn"
ELSEWHERE = "another consolidator works on it"


async def serve(connection: Connection, settings: Settings) -> None:
    """Condense on every board of the broker until cancelled.

    Args:
        connection: Survives the broker's restarts.
        settings: Of this process: the file of policies, and the model to ask.

    Raises:
        SettingsError: The policies, or the address of the model, cannot be used.
    """
    rules = read_rules(settings.consolidate_file)
    async with AsyncExitStack() as stack:
        model = await stack.enter_async_context(asking(settings))
        logger.info("summaries are %s", "extractive" if model is None else f"by {model.name}")

        async def keep(board: str) -> None:
            async with take_desk(connection, settings, board, AGENT) as desk:
                consolidator = Consolidator(desk, rules, model)
                async with telling(connection, board, consolidator.tell):
                    await consolidator.run()

        await keep_boards(connection, keep)


@asynccontextmanager
async def asking(settings: Settings) -> AsyncGenerator[Model | None]:
    """The model of the settings for the block; None where there is none."""
    if settings.model_url is None:
        yield None
        return
    patience = Patience(attempts=MODEL_TRIES, attempt_s=MODEL_S, total_s=MODEL_S)
    async with open_model(
        settings.model_url, key=settings.model_key, name=settings.model_name, patience=patience
    ) as model:
        yield model


class Consolidator:
    """Condenses on one board.

    Args:
        desk: At the board, under the consolidator's name.
        rules: The settings.
        model: To ask; None picks sentences.
        lease_s: How long a group stays with a worker that gives no sign of life.

    Attributes:
        groups: What is known of the board.
        waits: What failed, or is held by another, by group.
    """

    def __init__(
        self, desk: Desk, rules: Rules, model: Model | None = None, *, lease_s: float = LEASE_S
    ) -> None:
        self.groups = Groups(rules)
        self.waits: dict[Key, Waits] = {}
        self._desk = desk
        self._log = desk.log
        self._extractor = Extractor(self.groups.lexicon)
        self._spending = Spending(desk.log, rules.budget, calls=MODEL_TRIES)
        self._model = None if model is None else ModelWriter(model, self._spending)
        self._bench = Bench(desk, self.groups, self._reach, lease_s=lease_s)
        self._since = clock.now()
        self._looked: datetime | None = None
        self._left: dict[Key, int] = {}
        self._failures: dict[Key, int] = {}
        self._progress = anyio.Event()
        self._caught_up = anyio.Event()

    @property
    def outcome(self) -> Outcome:
        """What was done so far."""
        return self._bench.outcome

    async def run(self) -> None:
        """Condense what is due, now and whenever something becomes so; returns never."""
        async with self._following():
            while True:
                await self.tend()
                await anyio.sleep(TICK_S)

    async def once(self, *, now: bool = False) -> Outcome:
        """Condense what is due, once.

        Args:
            now: Whatever there is two of, however young.
        """
        async with self._following():
            await self.tend(now=now)
        return self.outcome

    async def plan(self, *, now: bool = False) -> list[Due]:
        """What would be condensed."""
        async with self._following():
            await self._learn_retention()
        return list(due(self.groups, clock.now(), now=now))

    @asynccontextmanager
    async def _following(self) -> AsyncGenerator[None]:
        """Know for the block what is on the board, all that is there when it begins."""
        self._caught_up = anyio.Event()
        async with background() as group:
            group.start_soon(self.follow)
            await self._caught_up.wait()
            yield

    async def follow(self) -> None:
        """Take in the board, and what is stored on it from then on; returns never."""
        while True:
            try:
                await self._follow()
            except BlackboardError as error:
                logger.warning("cannot follow board %s: %s", self._log.board, error)
            await anyio.sleep(RETRY_S)

    async def tell(self) -> Told:
        """How far it is; from what is known already, so it costs next to nothing."""
        left = sorted(self._left.items(), key=lambda one: str(one[0]))
        waits = [self._waits(key, memories) for key, memories in left[:MOST]]
        asks = self._model is not None
        return Told(
            since=self._since,
            looked=self._looked,
            groups=len(self.groups.keys()),
            undone=len(self.groups.undone),
            model=self._model.name if self._model is not None else None,
            budget=await self._spending.left() if asks else None,
            waits=tuple(waits),
            waiting=len(left),
            done=self.outcome,
        )

    def _waits(self, key: Key, memories: int) -> Waits:
        known = self.waits.get(key)
        if known is None:
            return Waits(str(key), TURN, memories=memories)
        return msgspec.structs.replace(known, memories=memories)

    async def tend(self, *, now: bool = False) -> None:
        """Condense what is due, and finish what is half done."""
        await self._learn_retention()
        moment = clock.now()
        jobs: dict[Key, Due | None] = dict.fromkeys(self.groups.unfinished())
        jobs.update((one.key, one) for one in due(self.groups, moment, now=now))
        for key in self.waits.keys() - jobs.keys():
            del self.waits[key]
        self._looked = moment
        self._left = {key: 0 if job is None else len(job.members) for key, job in jobs.items()}
        ready = [
            key
            for key in jobs
            if now or not (wait := self.waits.get(key)) or not wait.until or wait.until <= moment
        ]
        slots = anyio.Semaphore(AT_ONCE if self._model is None else AT_ONCE_MODEL)
        async with anyio.create_task_group() as group:
            for key in ready:
                await slots.acquire()
                group.start_soon(self._work, key, slots, now)

    async def _learn_retention(self) -> None:
        try:
            self.groups.retention = await policy_of(self._log.connection, self._log.board)
        except BlackboardError as error:
            logger.warning("board %s: its retention policy: %s", self._log.board, error)

    async def _follow(self) -> None:
        await self._read_undone()
        position = self.groups.position
        start = Start.after(position) if position else Start.newest()
        subject = Pattern(">").subject(self._log.board)
        async with follow(self._log.connection, self._log.stream, subject, start) as follower:
            if not follower.pending:
                self._step()
            taken = 0
            while True:
                message = await follower.step()
                if message is not None:
                    memory = self._log.delivered(message)
                    if memory is not None:
                        self.groups.take(memory)
                    self.groups.position = max(self.groups.position, message.sequence)
                    taken += 1
                if not follower.pending or message is None:
                    self._step()
                elif taken % STRIDE == 0:
                    await anyio.lowlevel.checkpoint()

    async def _read_undone(self) -> None:
        subject = f"claim.{self._log.board}.*.{AGENT}.>"
        for message in await self._log.reads.last_of_each(subject):
            if message.subject.split(".")[-1].startswith("u-"):
                try:
                    record = decode_record(message.data, Undone)
                except InvalidError:
                    continue
                self.groups.undone.update(record.sources)

    def _step(self) -> None:
        self._caught_up.set()
        self._progress.set()
        self._progress = anyio.Event()

    async def _reach(self, revision: int) -> None:
        while self.groups.position < revision:
            await self._progress.wait()

    async def _work(self, key: Key, slots: anyio.Semaphore, now: bool) -> None:  # noqa: FBT001
        def members() -> list[Candidate]:
            # Decided when the group is ours: another may have condensed it meanwhile.
            found = list(due(self.groups, clock.now(), now=now, only=key))
            return found[0].members if found else []

        began = anyio.current_time()
        try:
            if await work_on(self._bench, key, members, self._writer(key)):
                self._failures.pop(key, None)
                self.waits.pop(key, None)
                self._left.pop(key, None)
            else:
                self.waits[key] = Waits(str(key), ELSEWHERE)
            if self._model is None:
                took_s = anyio.current_time() - began
                await anyio.sleep(min(LONGEST_REST_S, REST * took_s))
        except BlackboardError as error:
            self._failed(key, error)
        finally:
            slots.release()

    def _writer(self, key: Key) -> Writer:
        if self._model is None or not self.groups.rules.of(key.topic).model:
            return self._extractor
        return _Thrifty(self._model, self._extractor)

    def _failed(self, key: Key, error: BlackboardError) -> None:
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (failures - 1))
        after_s = getattr(error, "after_s", None) or pause_s
        until = clock.now() + timedelta(seconds=after_s)
        self.waits[key] = Waits(str(key), str(error), until)
        logger.warning(
            "board %s: %s waits until %s: %s", self._log.board, key, until.strftime("%X"), error
        )
        self._desk.journal.audit("condense", key.topic, outcome=type(error).__name__)


class _Thrifty:
    """Asks the model while the budget lasts, and picks sentences when it is spent."""

    def __init__(self, model: Writer, extractor: Writer) -> None:
        self._model = model
        self._extractor = extractor

    async def write(self, said: Sequence[Said], budget: int) -> Written:
        try:
            return await self._model.write(said, budget)
        except SpentError as error:
            logger.info("%s; summaries are extractive until then", error)
            return await self._extractor.write(said, budget)
