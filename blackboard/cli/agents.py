"""Commands for agents: who runs, which handlers are behind, pause, resume, remove."""

from collections.abc import Sequence
from dataclasses import asdict

from cyclopts import App

from blackboard.cli.output import say, say_json, table
from blackboard.cli.place import HERE, Place, opened
from blackboard.clock import now
from blackboard.errors import InvalidError
from blackboard.records import Card
from blackboard.runtime.control import (
    HandlerState,
    list_cards,
    list_handlers,
    pause as paused,
    remove as removed,
    resume as resumed,
)
from blackboard.subjects import check_name, consumer_name
from blackboard.times import parse_point

agents = App(
    name="agents",
    help_epilogue="Example:\n\n"
    "    blackboard agents\n"
    "    blackboard agents pause summarizer summarize",
)


@agents.default
async def overview(*, place: Place = HERE) -> None:
    """List agents and handlers; pause, resume, remove one.

    Args:
        place: The board.
    """
    await show(place=place)


@agents.command(
    name="list", help_epilogue="Example:\n\n    blackboard agents list --agent summarizer"
)
async def show(*, agent: str | None = None, place: Place = HERE) -> None:
    """List the instances that run, and the handlers with what waits for them.

    Args:
        agent: Only of this agent.
        place: The board.
    """
    if agent is not None:
        check_name("--agent", agent)
    async with opened(place) as board:
        cards = [card for card in await list_cards(board) if agent in (None, card.agent)]
        handlers = await list_handlers(board, agent)
        name = board.name
    if place.as_json:
        say_json(
            {
                "instances": [_card(card) for card in cards],
                "handlers": [asdict(h) for h in handlers],
            }
        )
        return
    _print_cards(cards)
    say()
    _print_handlers(handlers, cards, name)


def _card(card: Card) -> dict[str, object]:
    return {name: getattr(card, name) for name in card.__struct_fields__}


def _print_cards(cards: Sequence[Card]) -> None:
    if not cards:
        say("no agent runs on this board now")
        return
    table(
        ["agent", "version", "where", "since", "state", "in hand", "done", "failed"],
        [
            [
                card.agent,
                card.version,
                f"{card.host} pid {card.pid}",
                card.started,
                card.state,
                card.in_hand,
                card.done,
                card.failed,
            ]
            for card in cards
        ],
        right=["in hand", "done", "failed"],
    )


def _print_handlers(handlers: Sequence[HandlerState], cards: Sequence[Card], board: str) -> None:
    if not handlers:
        say("no handler has a place on this board yet")
        return
    replicas = {
        (state.agent, state.handler): sum(
            card.agent == state.agent and state.handler in card.handlers for card in cards
        )
        for state in handlers
    }
    table(
        ["handler", "pattern", "run", "waiting", "in hand", "replicas", ""],
        [
            [
                consumer_name(state.agent, state.handler),
                _pattern(state.filter, board),
                state.run,
                state.pending,
                state.in_hand,
                replicas[state.agent, state.handler],
                "paused" if state.paused else "",
            ]
            for state in handlers
        ],
        right=["run", "waiting", "in hand", "replicas"],
    )


def _pattern(subject: str, board: str) -> str:
    return subject.removeprefix(f"mem.{board}.*.*.").removesuffix(".*")


@agents.command(
    help_epilogue="Example:\n\n    blackboard agents pause summarizer --until 2030-01-01Z"
)
async def pause(
    agent: str,
    handler: str | None = None,
    /,
    *,
    until: str | None = None,
    place: Place = HERE,
) -> None:
    """Give an agent's handlers nothing more until they are resumed; nothing is lost.

    Args:
        agent: The agent.
        handler: Only this handler of it.
        until: Until a time, like 2026-11-20T09:30:00Z.
        place: The board.
    """
    moment = None if until is None else parse_point(until, "--until")
    if isinstance(moment, int) or (moment is not None and moment <= now()):
        raise InvalidError(f"--until {until!r} must be a time to come, like 2030-01-01T09:30:00Z")
    async with opened(place) as board:
        done = await paused(board, agent, handler, moment)
    _say_done("paused", agent, done, place)


@agents.command(help_epilogue="Example:\n\n    blackboard agents resume summarizer")
async def resume(agent: str, handler: str | None = None, /, *, place: Place = HERE) -> None:
    """Let paused handlers go on where they stopped.

    Args:
        agent: The agent.
        handler: Only this handler of it.
        place: The board.
    """
    async with opened(place) as board:
        done = await resumed(board, agent, handler)
    _say_done("resumed", agent, done, place)


@agents.command(help_epilogue="Example:\n\n    blackboard agents remove summarizer")
async def remove(agent: str, handler: str | None = None, /, *, place: Place = HERE) -> None:
    """Forget how far an agent's handlers are; memories stay. Stop its replicas first.

    Args:
        agent: The agent.
        handler: Only this handler of it.
        place: The board.
    """
    async with opened(place) as board:
        done = await removed(board, agent, handler)
    _say_done("removed", agent, done, place)


def _say_done(what: str, agent: str, handlers: Sequence[str], place: Place) -> None:
    if place.as_json:
        say_json({what: [consumer_name(agent, handler) for handler in handlers]})
        return
    for handler in handlers:
        say(f"{what} {consumer_name(agent, handler)}")
