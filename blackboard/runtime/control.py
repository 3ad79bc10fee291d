"""What an operator does to handlers: see them, pause, resume and remove them."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from blackboard.board import Blackboard
from blackboard.clock import check_moment, now
from blackboard.errors import NotFoundError
from blackboard.jetstream import ConsumerInfo, Durable, consumers
from blackboard.jetstream.consumer import delete_consumer
from blackboard.records import Card
from blackboard.runtime import presence
from blackboard.subjects import check_name, consumer_name, dead_stream, memory_stream

FOR_GOOD = timedelta(days=3650)


@dataclass(frozen=True, slots=True)
class HandlerState:
    """A handler's consumer, as the broker has it.

    Attributes:
        agent: Its agent.
        handler: Its name.
        filter: The subjects it gets.
        run: Which generation of the consumer this is.
        pending: Memories it has not been given yet.
        in_hand: Given to replicas, or waiting to be tried again.
        waiting: Requests of replicas that wait for memories; 0 means that nobody pulls.
        paused: Whether it is paused.
    """

    agent: str
    handler: str
    filter: str
    run: int
    pending: int
    in_hand: int
    waiting: int
    paused: bool


async def list_handlers(board: Blackboard, agent: str | None = None) -> list[HandlerState]:
    """The handlers that have a consumer on the board, running or not, by name.

    Raises:
        UnavailableError: The broker does not answer.
    """
    found = await consumers(board.log.connection, memory_stream(board.name))
    states = [_state(info) for info in found if "--" in info.name and info.metadata.get("run")]
    states.sort(key=lambda state: (state.agent, state.handler))
    return [state for state in states if agent in (None, state.agent)]


def _state(info: ConsumerInfo) -> HandlerState:
    agent, _, handler = info.name.partition("--")
    run = info.metadata["run"]
    return HandlerState(
        agent,
        handler,
        info.filter,
        int(run) if run.isdecimal() else 0,
        info.num_pending,
        info.num_ack_pending,
        info.num_waiting,
        info.paused,
    )


async def list_cards(board: Blackboard) -> list[Card]:
    """The running instances of agents, by agent and start.

    Raises:
        UnavailableError: The broker does not answer.
    """
    return await presence.list_cards(board.log)


async def pause(
    board: Blackboard, agent: str, handler: str | None = None, until: datetime | None = None
) -> list[str]:
    """Give handlers nothing more, whoever runs them, until they are resumed or a time comes.

    Args:
        board: The board.
        agent: The agent.
        handler: None pauses all of its handlers.
        until: With time zone; None pauses for good.

    Returns:
        The handlers.

    Raises:
        NotFoundError: There is no such handler on this board.
        InvalidError: `until` has no time zone.
    """
    if until is not None:
        check_moment("until", until)
    names = await _named(board, agent, handler)
    for name in names:
        await _durable(board, agent, name).pause(until or now() + FOR_GOOD)
        board.journal.audit("pause", consumer_name(agent, name))
    return names


async def resume(board: Blackboard, agent: str, handler: str | None = None) -> list[str]:
    """Let paused handlers go on; nothing was lost in between.

    Raises:
        NotFoundError: There is no such handler on this board.
    """
    names = await _named(board, agent, handler)
    for name in names:
        await _durable(board, agent, name).pause(None)
        board.journal.audit("resume", consumer_name(agent, name))
    return names


async def remove(board: Blackboard, agent: str, handler: str | None = None) -> list[str]:
    """Delete handlers' consumers: their place in the stream is forgotten; memories stay.

    Replicas that still run stop with an error.

    Raises:
        NotFoundError: There is no such handler on this board.
    """
    names = await _named(board, agent, handler)
    for name in names:
        await _durable(board, agent, name).delete()
        consumer = consumer_name(agent, name)
        await delete_consumer(board.log.connection, dead_stream(board.name), consumer)
        board.journal.audit("remove", consumer)
    return names


def _durable(board: Blackboard, agent: str, handler: str) -> Durable:
    name = consumer_name(agent, handler)
    return Durable(board.log.connection, memory_stream(board.name), name)


async def _named(board: Blackboard, agent: str, handler: str | None) -> list[str]:
    check_name("agent", agent)
    there = [state.handler for state in await list_handlers(board, agent)]
    names = there if handler is None else [name for name in there if name == handler]
    if not names:
        what = f"handler {handler!r} of agent" if handler is not None else "agent"
        raise NotFoundError(f"no {what} {agent!r} has a consumer on board {board.name!r}")
    return names
