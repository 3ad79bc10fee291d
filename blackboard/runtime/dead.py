"""Dead letters: what a handler gave up on, with the reason, until an operator has it tried again.

A letter is stored before its input is settled, so nothing is lost in between; a second letter for
the same failure is recognised by its message id. The wish to try again is a message too, which the
agent finds when it runs, even if it is down when the wish is made.
"""

import logging
import traceback
from dataclasses import dataclass
from datetime import datetime

from blackboard.board import Blackboard
from blackboard.clock import now
from blackboard.codec import decode_record, encode_record, printable
from blackboard.errors import BlackboardError, InvalidError, NotFoundError, TerminalError
from blackboard.jetstream import Outgoing, Start, follow
from blackboard.log import Log
from blackboard.messages import MAX_HOPS, Memory
from blackboard.records import Cause, DeadLetter, Retry
from blackboard.subjects import dead_stream, dead_subject, retry_subject

logger = logging.getLogger(__name__)

TRACEBACK_CHARACTERS = 16_000
ERROR_CHARACTERS = 2_000


class HopLimitError(TerminalError):
    """A memory was handed on too often: agents feed each other.

    Args:
        chain: The agents that handed it on, newest first.
    """

    def __init__(self, chain: tuple[str, ...]) -> None:
        super().__init__(
            f"the limit of {MAX_HOPS} hops is reached: the memory was handed on by "
            f"{' <- '.join(chain)}; let one of them not react to what came from it"
        )
        self.chain = chain


class LostWorkError(TerminalError):
    """A memory was delivered very often and no process lived to tell what became of it."""

    def __init__(self, deliveries: int) -> None:
        super().__init__(
            f"delivered {deliveries} times without an end; it may be what kills the processes "
            "that handle it"
        )


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter as it lies on the board.

    Attributes:
        number: Names it for `retry_dead`.
        buried: When.
        letter: What it says.
    """

    number: int
    buried: datetime
    letter: DeadLetter


async def bury(
    log: Log, handler: str, version: str, memory: Memory, error: Exception, *, occasion: str
) -> None:
    """Store the dead letter of a memory; it is on disk when this returns.

    Args:
        log: Of the agent.
        handler: That gave up.
        version: The agent's.
        memory: The input.
        error: Why.
        occasion: The run or retry; two letters of one occasion, close together, are one.

    Raises:
        UnavailableError: No answer; stored or not.
        BoardFullError: No room.
    """
    letter = DeadLetter(
        input=memory.pinned,
        agent=log.agent,
        handler=handler,
        version=version,
        error=printable(f"{type(error).__name__}: {error}"[:ERROR_CHARACTERS]),
        traceback=printable("".join(traceback.format_exception(error))[-TRACEBACK_CHARACTERS:]),
        attempts=memory.delivery,
        chain=error.chain if isinstance(error, HopLimitError) else (),
    )
    headers = {
        "Bb-Agent": log.agent,
        "Bb-Instance": log.instance,
        # A crash before the input is settled has it fail once more: that is the same letter.
        "Nats-Msg-Id": f"{log.agent}--{handler} {memory.pinned} {occasion}",
    }
    log.telemetry.inject(headers)
    subject = dead_subject(log.board, log.agent, handler)
    await log.connection.publish(Outgoing(subject, encode_record(letter), headers))


async def chain_of(log: Log, memory: Memory) -> tuple[str, ...]:
    """The agents that handed a memory on, newest first, as far as their inputs are still there."""
    chain = [memory.agent]
    at: Memory | None = memory
    while at is not None and at.cause is not None and len(chain) <= MAX_HOPS:
        try:
            source = Cause.parse(at.cause).input
            at = await log.at_sequence(source.revision or 0, source)
        except BlackboardError as error:
            logger.debug("dead.chain", extra={"error": str(error)})
            break
        if at is not None:
            chain.append(at.agent)
    return tuple(chain)


async def list_dead(
    board: Blackboard, agent: str | None = None, handler: str | None = None
) -> list[Letter]:
    """List the dead letters that wait for an operator, oldest first.

    Args:
        board: The board.
        agent: Only of this agent.
        handler: Only of this handler.

    Raises:
        UnavailableError: The broker does not answer.
    """
    log = board.log
    subject = dead_subject(log.board, agent or "*", handler or "*")
    found: list[Letter] = []
    async with follow(log.connection, dead_stream(log.board), subject, Start.all()) as follower:
        while follower.pending:
            message = await follower.step()
            if message is None:
                continue
            try:
                letter = decode_record(message.data, DeadLetter)
            except InvalidError as error:
                logger.warning("dead.invalid", extra={"error": str(error)})
                continue
            place = dead_subject(log.board, letter.agent, letter.handler)
            if message.subject == place and message.headers.get("Bb-Agent") == letter.agent:
                found.append(Letter(message.sequence, message.stored, letter))
    return found


async def retry_dead(
    board: Blackboard,
    numbers: list[int] | None = None,
    *,
    agent: str | None = None,
    handler: str | None = None,
) -> list[Letter]:
    """Have dead letters handled again; their handlers take them up when they run.

    Args:
        board: The board.
        numbers: Which; None means all that the other arguments select.
        agent: Only of this agent.
        handler: Only of this handler.

    Returns:
        The letters that were handed over. They leave the list; one that fails again comes back.

    Raises:
        NotFoundError: A number that is no dead letter; nothing was done.
        UnavailableError: The broker does not answer; some may have been handed over.
    """
    letters = await list_dead(board, agent, handler)
    if numbers is not None:
        missing = set(numbers) - {letter.number for letter in letters}
        if missing:
            raise NotFoundError(f"no dead letter {', '.join(map(str, sorted(missing)))}")
        letters = [letter for letter in letters if letter.number in numbers]
    log = board.log
    for found in letters:
        letter = found.letter
        subject = retry_subject(log.board, letter.agent, letter.handler)
        headers = {"Bb-Agent": log.agent, "Nats-Msg-Id": f"retry {found.number}"}
        wish = Outgoing(subject, encode_record(Retry(letter.input)), headers)
        await log.connection.publish(wish)
        # The wish is stored, so the letter may go; the other way round a crash would lose it.
        await log.connection.delete(dead_stream(log.board), found.number)
        board.journal.audit("retry", str(letter.input), handler=letter.handler)
    logger.info("dead.retried", extra={"letters": len(letters), "at": now().isoformat()})
    return letters
