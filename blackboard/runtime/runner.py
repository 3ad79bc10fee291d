"""A running agent: a loop per handler, one for what operators want tried again, and its card."""

import logging
import uuid
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Literal

import anyio
from anyio.abc import TaskGroup

from blackboard.board import Blackboard
from blackboard.clock import now
from blackboard.errors import SettingsError
from blackboard.records import Card
from blackboard.runtime.commits import Commits
from blackboard.runtime.declared import Declaration, Handler
from blackboard.runtime.gathering import Gathering
from blackboard.runtime.generation import Generation, Place
from blackboard.runtime.handling import Handling
from blackboard.runtime.intake import Intake, Stats
from blackboard.runtime.loop import Loop
from blackboard.runtime.presence import Presence, machine
from blackboard.runtime.retrying import Retrying
from blackboard.runtime.transaction import Bench
from blackboard.watch import Since

logger = logging.getLogger(__name__)

GRACE_S = 10.0


class Runner:
    """An agent at work on a board.

    Attributes:
        stats: What it has done.
    """

    def __init__(self, agent: Declaration, board: Blackboard, launch: str) -> None:
        self.stats = Stats()
        self._agent = agent
        self._board = board
        self._log = board.log
        reader = board.session.desk(board.name, board.agent).reader
        self._bench = Bench(board, reader, Commits(board.log), agent.version)
        self._launch = launch
        self._started = now()
        self._state: Literal["running", "stopping"] = "running"
        self._loops: list[Loop] = []
        self._patience = anyio.CancelScope()
        self._presence = Presence(self._log, self.card)

    @property
    def in_hand(self) -> int:
        """Memories that are being worked on."""
        return sum(loop.in_hand for loop in self._loops)

    def card(self) -> Card:
        """What others see of this instance."""
        host, pid = machine()
        return Card(
            agent=self._agent.name,
            instance=self._log.instance,
            version=self._agent.version,
            host=host,
            pid=pid,
            started=self._started,
            handlers={name: handler.pattern.text for name, handler in self._agent.handlers.items()},
            state=self._state,
            in_hand=self.in_hand,
            done=self.stats.done,
            failed=self.stats.failed,
        )

    async def begin(self, group: TaskGroup, start: Since | str) -> None:
        """Make or join the consumers of all handlers, then begin to pull.

        Raises:
            SettingsError: A consumer has other settings than the code.
        """
        loops: list[tuple[Loop, Generation]] = []
        for handler in self._agent.handlers.values():
            loops += await self._loops_of(handler, start)
        for loop, generation in loops:
            self._loops.append(loop)
            group.start_soon(loop.run, generation)
        group.start_soon(self._presence.run)

    async def _loops_of(
        self, handler: Handler, start: Since | str
    ) -> list[tuple[Loop, Generation]]:
        place = Place(self._log, handler, self._agent.version, self._launch)
        generation = await place.enter(start)
        kind = Gathering if handler.kind == "gather" else Handling
        intake = Intake(self._bench, handler, self.stats, kind(self._bench, handler).work)
        loop = Loop(
            self._log.connection,
            self._log.stream,
            place.durable.name,
            slots=handler.concurrency,
            ack_wait_s=handler.ack_wait_s,
            process=intake.process,
            again=place.again,
        )
        retrying = Retrying(self._bench, handler, intake, place)
        return [(loop, generation), (retrying.loop(), await retrying.enter())]

    async def stop(self, grace_s: float) -> None:
        """Take nothing new and wait for what is in hand, but not longer than the grace period."""
        self._state = "stopping"
        for loop in self._loops:
            loop.stop()
        self._patience.deadline = anyio.current_time() + grace_s
        with self._patience:
            await self._presence.show()
            for loop in self._loops:
                await loop.ended.wait()
        if self._patience.cancelled_caught:
            logger.warning("agent.gives_back", extra={"in_hand": self.in_hand})

    def hurry(self) -> None:
        """End the grace period now."""
        self._patience.cancel()

    async def leave(self) -> None:
        """Take the card away."""
        await self._presence.leave()


@asynccontextmanager
async def running(
    agent: Declaration,
    board: Blackboard,
    *,
    start: Since | str = None,
    grace_s: float = GRACE_S,
    launch: str | None = None,
) -> AsyncGenerator[Runner]:
    """Run an agent while the block lasts; see `Agent.running`."""
    if not agent.handlers:
        raise SettingsError(f"agent {agent.name!r} has no handlers; declare one with @agent.on")
    runner = Runner(agent, board.sibling(agent=agent.name), launch or uuid.uuid4().hex)
    failure: BaseException | None = None
    try:
        async with anyio.create_task_group() as group:
            await runner.begin(group, start)
            where = {"board": board.name, "broker": board.url}
            logger.info("agent.running", extra={"agent": agent.name, **where})
            try:
                yield runner
            finally:
                with anyio.CancelScope(shield=True):
                    await runner.stop(grace_s)
                group.cancel_scope.cancel()
    except BaseExceptionGroup as errors:
        failure = only(errors)
        if failure is errors:
            raise
    finally:
        with anyio.CancelScope(shield=True):
            await runner.leave()
    if failure is not None:
        raise failure


def only(error: BaseException) -> BaseException:
    """The one error in a group of one, which is what the caller wants to see."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:  # pyright: ignore[reportUnknownMemberType,reportUnknownArgumentType]
        error = error.exceptions[0]  # pyright: ignore[reportUnknownMemberType,reportUnknownVariableType]
    return error  # pyright: ignore[reportUnknownVariableType]
