"""Presence: a card per running instance, refreshed while it lives and gone soon after it died."""

import logging
import os
import platform
from collections.abc import Callable

import anyio

from blackboard.codec import decode_record, encode_record
from blackboard.errors import BlackboardError, InvalidError
from blackboard.jetstream import NoStreamError, Outgoing, Start, follow
from blackboard.layout import create_presence
from blackboard.log import Log
from blackboard.records import Card
from blackboard.subjects import presence_bucket

logger = logging.getLogger(__name__)

REFRESH_S = 5.0
"""A card lives three times as long."""
LEAVE_S = 2.0


class Presence:
    """Keeps one instance's card.

    Args:
        log: Of the agent.
        card: What it says now.
    """

    def __init__(self, log: Log, card: Callable[[], Card]) -> None:
        self._log = log
        self._card = card
        bucket = presence_bucket(log.board)
        self._subject = f"$KV.{bucket}.{log.agent}.{log.instance}"

    async def run(self) -> None:
        """Refresh the card until cancelled."""
        while True:
            await self.show()
            await anyio.sleep(REFRESH_S)

    async def show(self) -> None:
        """Write the card now, if the broker is there."""
        await self._publish(Outgoing(self._subject, encode_record(self._card())))

    async def leave(self) -> None:
        """Take the card away."""
        with anyio.move_on_after(LEAVE_S, shield=True):
            await self._publish(Outgoing(self._subject, b"", {"KV-Operation": "DEL"}))

    async def _publish(self, message: Outgoing) -> None:
        log = self._log
        try:
            try:
                await log.connection.publish(message)
            except NoStreamError:
                await create_presence(log.connection, log.board, log.limits)
                await log.connection.publish(message)
        except BlackboardError as error:
            # Work goes on without a card; the next refresh brings it back.
            logger.debug("presence.failed", extra={"error": str(error)})


def machine() -> tuple[str, int]:
    """Host name and process id, for the card."""
    return platform.node(), os.getpid()


async def list_cards(log: Log) -> list[Card]:
    """The cards of all instances that run on a board, by agent and start.

    Raises:
        UnavailableError: The broker does not answer.
    """
    try:
        cards = await _read(log)
    except NoStreamError:
        cards = []  # the broker has restarted, and no agent has shown its card since
    return sorted(cards, key=lambda card: (card.agent, card.started))


async def _read(log: Log) -> list[Card]:
    bucket = presence_bucket(log.board)
    cards: list[Card] = []
    async with follow(
        log.connection, f"KV_{bucket}", f"$KV.{bucket}.>", Start.newest()
    ) as follower:
        while follower.pending:
            message = await follower.step()
            if message is None or not message.data:
                continue
            try:
                card = decode_record(message.data, Card)
            except InvalidError as error:
                logger.warning("presence.invalid", extra={"error": str(error)})
                continue
            if message.subject.endswith(f".{card.agent}.{card.instance}"):
                cards.append(card)
    return cards
