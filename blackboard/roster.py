"""Who may do what on a board, as services know it: the access policy in force, followed live.

Closed by default: whoever is not on it may nothing, and neither may anybody until it was read.
"""

import logging
from collections.abc import Mapping

import anyio

from blackboard.access.identity import ACCESS_STREAM, SERVICES, rights_subject
from blackboard.access.rights import Grant, Rights
from blackboard.codec import decode_record
from blackboard.errors import DeniedError, InvalidError, RetryableError, UnavailableError
from blackboard.jetstream import Connection, Message, NoStreamError, Start, follow
from blackboard.messages import Memory
from blackboard.subjects import ONCE, check_name

logger = logging.getLogger(__name__)

RETRY_S = 0.5


class Roster:
    """The rights of every agent on one board.

    Args:
        connection: Of a service.
        board: The board.
    """

    def __init__(self, connection: Connection, board: str) -> None:
        self._connection = connection
        self._board = board
        self._rights: dict[str, Rights] = {}
        self._read = False
        self._changed = anyio.Event()
        self.version = 0
        """Grows with every change."""

    @property
    def all(self) -> Mapping[str, Rights]:
        """The rights of every agent, by name; empty until the policy was read."""
        return self._rights

    async def change(self, seen: int) -> int:
        """Wait until rights were read or changed since a version, and give the version now."""
        while self.version == seen:
            await self._changed.wait()
        return self.version

    @property
    def enforced(self) -> bool:
        """Whether the broker has credentials, so that there are rights at all."""
        return self._connection.identity is not None

    async def run(self) -> None:
        """Follow the policy until cancelled."""
        while self.enforced:
            try:
                await self._follow()
            except NoStreamError:
                logger.debug("roster.absent", extra={"board": self._board})
            except RetryableError as error:
                logger.warning("cannot read who may do what on %s: %s", self._board, error)
            await anyio.sleep(RETRY_S)
        await anyio.sleep_forever()

    async def _follow(self) -> None:
        subject = rights_subject(self._board, "*")
        found: dict[str, Rights] = {}
        async with follow(self._connection, ACCESS_STREAM, subject, Start.newest()) as follower:
            while follower.pending:
                message = await follower.step()
                if message is not None:
                    _take(found, message)
            self._rights, self._read = found, True
            self._tell()
            async for message in follower:
                _take(self._rights, message)
                self._tell()

    def _tell(self) -> None:
        self.version += 1
        self._changed.set()
        self._changed = anyio.Event()

    def rights(self, agent: str) -> Rights | None:
        """What an agent may do; None when it is a service or no rights are enforced.

        Raises:
            InvalidError: That is no agent's name.
            DeniedError: The policy does not know it.
            UnavailableError: The policy was not read yet.
        """
        check_name("agent", agent)
        if not self.enforced or agent in SERVICES:
            return None
        if not self._read:
            raise UnavailableError(
                f"who may do what on {self._board!r} is not known yet; try again"
            )
        found = self._rights.get(agent)
        if found is None:
            raise DeniedError(
                f"the access policy in force has no agent {agent!r} on board {self._board!r}"
            )
        return found

    def reaches(self, tombstone: Memory, access: str) -> bool:
        """Whether a tombstone takes away what lies under a label: its author may write there.

        Shared state is one memory over all labels, and not everybody who may write a topic under
        one of them may under the others.

        Raises:
            UnavailableError: The policy was not read yet.
        """
        if not self.enforced or access == tombstone.access:
            return True
        try:
            rights = self.rights(tombstone.agent)
        except DeniedError:
            return False  # it is gone from the policy, and has no say any more
        return rights is None or rights.may_write(access, tombstone.topic)

    def grants(self, _board: str, agent: str) -> tuple[Grant, ...] | None:
        """What an agent may read, for the index; None when all of it. Raises as `rights` does."""
        rights = self.rights(agent)
        if rights is None:
            return None
        labels = dict.fromkeys((grant.access, grant.user) for grant in rights.read)
        results = (Grant(access, f"{ONCE}.>", user) for access, user in labels)
        return (*rights.read, *results)


def document_of(message: Message) -> Rights | None:
    """The rights that a message of the access stream grants; None when it takes them all away."""
    _, board, agent = message.subject.split(".")
    try:
        document = decode_record(message.data, Rights) if message.data else None
    except InvalidError:
        logger.exception("the rights of %s on %s cannot be read, so it has none", agent, board)
        return None
    if document is None or (document.board, document.agent) != (board, agent):
        return None
    return document


def _take(rights: dict[str, Rights], message: Message) -> None:
    agent = message.subject.rsplit(".", 1)[-1]
    document = document_of(message)
    if document is None:
        rights.pop(agent, None)
    else:
        rights[agent] = document
