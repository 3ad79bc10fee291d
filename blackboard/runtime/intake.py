"""From a delivery to a verdict: what is honest, wanted and not done yet reaches the function.

What the function raises decides what comes next: again later, or a dead letter. An outage of the
broker is never held against an input.
"""

import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import cast

from blackboard.envelope import is_expired
from blackboard.errors import (
    BlackboardError,
    BoardFullError,
    ConflictError,
    RetryableError,
    TerminalError,
    UnavailableError,
)
from blackboard.jetstream import Delivery
from blackboard.messages import MAX_HOPS, Memory
from blackboard.runtime.dead import HopLimitError, LostWorkError, bury, chain_of
from blackboard.runtime.declared import Handler
from blackboard.runtime.generation import Generation
from blackboard.runtime.loop import ACK, TERM, Verdict
from blackboard.runtime.transaction import Bench
from blackboard.telemetry import (
    DEAD_LETTERS,
    HANDLE_SECONDS,
    HANDLED,
    RETRIES,
)

logger = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 60.0
SPARE_DELIVERIES = 10
"""Deliveries beyond `attempts` that crashes, outages and give-backs may use up."""
BLAMELESS = (UnavailableError, BoardFullError)


@dataclass(frozen=True, slots=True)
class Arrival:
    """A memory at a handler.

    Attributes:
        memory: As delivered, without the content that lies elsewhere.
        headers: Of its message.
        run: The run of the handler that it belongs to.
        wish: The sequence of the message by which an operator wants it handled again; else 0.
    """

    memory: Memory
    headers: Mapping[str, str]
    run: int
    wish: int = 0

    @property
    def occasion(self) -> str:
        """Tells one failure of a memory from the same failure noticed twice."""
        return f"retry{self.wish}" if self.wish else f"run{self.run}"


@dataclass(slots=True)
class Stats:
    """What a running agent shows on its card."""

    done: int = 0
    failed: int = 0


Work = Callable[[Arrival], Awaitable[Verdict]]


class Intake:
    """The way of one handler's deliveries.

    Args:
        bench: The board and its parts.
        handler: The handler.
        stats: Counted here.
        work: What is done with an arrival that is wanted.
    """

    def __init__(self, bench: Bench, handler: Handler, stats: Stats, work: Work) -> None:
        self._bench = bench
        self._log = bench.board.log
        self._handler = handler
        self._stats = stats
        self._work = work

    async def process(self, delivery: Delivery, generation: Generation) -> Verdict:
        """Take one delivery of the board's stream."""
        memory = self._log.delivered(delivery.message)
        if memory is None:
            return TERM
        return await self.receive(Arrival(memory, delivery.message.headers, generation.run))

    async def receive(self, arrival: Arrival) -> Verdict:
        """Take one memory, delivered or asked for by an operator."""
        if not self._wanted(arrival.memory):
            return ACK
        started = time.monotonic()
        try:
            verdict = await self._traced(arrival)
        except Exception as error:  # noqa: BLE001 - whatever the function raises is its verdict
            return await self._failed(arrival, error)
        self._log.telemetry.observe(HANDLE_SECONDS, time.monotonic() - started)
        return verdict

    def _wanted(self, memory: Memory) -> bool:
        if is_expired(memory):
            return False
        if memory.condenses:
            return False
        gathers = self._handler.kind == "gather"
        if memory.gone is not None:
            # Only groups have something to do about it, whoever took the part back.
            return gathers and memory.gone != "moved"
        if memory.agent == self._log.agent and not self._handler.own:
            return False
        # A part that lost its tags leaves its group.
        return gathers or self._handler.tags.items() <= memory.tags.items()

    async def _traced(self, arrival: Arrival) -> Verdict:
        memory = arrival.memory
        telemetry = self._log.telemetry
        with telemetry.delivery(
            self._handler.pattern.text,
            self._handler.name,
            memory.pinned,
            delivery=memory.delivery,
            parent=arrival.headers,
        ):
            await self._check_limits(arrival)
            verdict = await self._work(arrival)
            if verdict is ACK:
                telemetry.count(HANDLED)
                self._stats.done += 1
            return verdict

    async def _check_limits(self, arrival: Arrival) -> None:
        memory = arrival.memory
        if memory.hops >= MAX_HOPS and not arrival.wish:
            raise HopLimitError(await chain_of(self._log, memory))
        if memory.delivery > self._handler.attempts + SPARE_DELIVERIES:
            raise LostWorkError(memory.delivery)

    async def _failed(self, arrival: Arrival, raised: Exception) -> Verdict:
        memory, error = arrival.memory, decisive(raised)
        # Whoever meets others at the same memory all the time is not to blame either, for long.
        spare = SPARE_DELIVERIES if isinstance(error, ConflictError) else 0
        tries = self._handler.attempts + spare
        last = memory.delivery >= tries and not isinstance(error, BLAMELESS)
        what = {
            "handler": self._handler.name,
            "input": str(memory.pinned),
            "delivery": memory.delivery,
            "error": f"{type(error).__name__}: {error}",
        }
        if last or isinstance(error, TerminalError):
            try:
                await bury(
                    self._log,
                    self._handler.name,
                    self._bench.version,
                    memory,
                    error,
                    occasion=arrival.occasion,
                )
            except BlackboardError as problem:
                logger.warning("handler.not_buried", extra={**what, "problem": str(problem)})
            else:
                self._stats.failed += 1
                self._log.telemetry.count(DEAD_LETTERS)
                known = isinstance(error, BlackboardError)
                logger.error("handler.dead", extra=what, exc_info=None if known else error)
                return TERM
        self._log.telemetry.count(RETRIES)
        delay_s = pause(memory.delivery, error)
        logger.warning("handler.retry", extra={**what, "delay_s": round(delay_s, 3)})
        return Verdict("nak", delay_s)


def decisive(error: Exception) -> Exception:
    """What decides of a group of errors: one that is terminal, else an outage, else a bug.

    A function with tasks of its own raises its errors in a group; it is judged as if it had none.
    """
    if not isinstance(error, ExceptionGroup):
        return error
    group = cast("ExceptionGroup[Exception]", error)
    for kinds in (TerminalError, BLAMELESS):
        found = group.subgroup(kinds)
        if found is not None:
            return _first(found)
    bugs = group.split(RetryableError)[1]
    # Of several bugs all are told, in one traceback.
    return _first(group) if bugs is None or len(group.exceptions) == 1 else group


def _first(error: Exception) -> Exception:
    while isinstance(error, ExceptionGroup):
        error = cast("ExceptionGroup[Exception]", error).exceptions[0]
    return error


def pause(delivery: int, error: Exception) -> float:
    """Seconds until the next try: doubled each time, with jitter, or what the error asks for."""
    if isinstance(error, RetryableError) and error.after_s is not None:
        return max(0.0, error.after_s)
    longest = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(delivery - 1, 16))
    return longest * random.uniform(0.5, 1.0)
