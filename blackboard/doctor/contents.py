"""What goes on at a board: handlers that nobody runs, what was given up on, and what was lost."""

from collections.abc import AsyncGenerator, Iterator, Sequence

from blackboard.batches import lost
from blackboard.board import Blackboard
from blackboard.doctor.check import Check
from blackboard.jetstream import ConsumerInfo, consumers
from blackboard.records import Card
from blackboard.runtime.dead import list_dead
from blackboard.runtime.presence import list_cards

BEHIND = 1_000
"""Memories that wait for a handler from which on it counts as behind."""
RECENT = 1_000
"""Batches in which losses are looked for: the last minutes of a busy board."""


async def checks(board: Blackboard) -> AsyncGenerator[Check]:
    """Look at the handlers, the dead letters, and what the audit and the traces lack."""
    cards = await list_cards(board.log)
    found = [
        one
        for one in await consumers(board.session.connection, board.log.stream)
        if "--" in one.name
    ]
    left = list(_handlers(found, cards))
    for check in left:
        yield check
    if not left:
        text = f"{len(found)}, none of them left behind" if found else "no agent has run here yet"
        yield Check("handlers", "ok", text)
    yield await _letters(board)
    yield await _losses(board)


def _handlers(found: Sequence[ConsumerInfo], cards: Sequence[Card]) -> Iterator[Check]:
    running = {card.agent for card in cards}
    served = {(card.agent, handler) for card in cards for handler in card.handlers}
    for one in found:
        agent, _, handler = one.name.partition("--")
        waits = one.num_pending + one.num_ack_pending
        if one.paused:
            text = f"{one.name} is paused; {waits} memories wait for it"
            yield Check("handlers", "warn", text, f"blackboard agents resume {agent} {handler}")
        elif not one.num_waiting and (agent, handler) not in served:
            also = f": {agent} runs, but has no such handler" if agent in running else ""
            text = f"{one.name} is pulled by nobody{also}; {waits} memories wait for it"
            do = f"start the agent, or drop its place: blackboard agents remove {agent} {handler}"
            yield Check("handlers", "warn", text, do)
        elif one.num_pending > BEHIND:
            text = f"{one.name} is {one.num_pending} memories behind"
            yield Check("handlers", "warn", text, "run more replicas, or raise its concurrency")


async def _letters(board: Blackboard) -> Check:
    letters = await list_dead(board)
    if letters:
        text = "1 memory was" if len(letters) == 1 else f"{len(letters)} memories were"
        text += " given up on"
        do = "blackboard dead list, then blackboard dead retry"
        return Check("dead letters", "warn", text, do)
    return Check("dead letters", "ok", "none")


async def _losses(board: Blackboard) -> Check:
    events, spans = await lost(board, RECENT)
    if events or spans:
        text = (
            f"{events} audit events and {spans} spans were lost lately: more than could be written"
        )
        do = "run agents in more processes, or trace less: BLACKBOARD_TRACE_RATIO=0.1"
        return Check("records", "warn", text, do)
    return Check("records", "ok", "no audit event and no span was lost lately")
