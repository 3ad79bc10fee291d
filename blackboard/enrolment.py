"""Enrolment: who may do what, written where the services of every board read it.

The broker's permissions come into force by its own configuration; the services decide by one
document for each agent in the stream `ACCESS`. Both are made from one policy. What an agent lost
stays closed at the broker whatever a document says, and what it was given opens at a service only
with the document: so documents are written when the broker has the policy.
"""

import logging
from typing import NamedTuple

import msgspec

from blackboard.access.identity import ACCESS_STREAM, rights_subject
from blackboard.access.keys import Keys
from blackboard.access.policy import Policy
from blackboard.access.rights import Rights
from blackboard.codec import decode_record, encode_record
from blackboard.errors import InvalidError
from blackboard.jetstream import Connection, Outgoing, Start, follow
from blackboard.layout import access_stream, boards, create_board
from blackboard.settings import Limits

logger = logging.getLogger(__name__)

SAFE = 3
"""Servers that hold the documents, where there are so many."""

Names = tuple[tuple[str, str], ...]
"""Boards and agents."""


class Enrolled(NamedTuple):
    """What a policy changed.

    Attributes:
        boards: Made, because the policy names them.
        granted: Agents that got other rights than before.
        revoked: Agents that have none any more.
    """

    boards: tuple[str, ...]
    granted: Names
    revoked: Names


async def enrol(connection: Connection, policy: Policy, keys: Keys) -> Enrolled:
    """Write the rights of every agent of a policy, and make the boards that it names.

    Documents that would say the same stay as they are. Safe to repeat.

    Args:
        connection: Of an operator.
        policy: In force at the broker.
        keys: The public keys of its agents.

    Raises:
        BoardFullError: The broker's store has no room for another board.
        UnavailableError: The broker does not answer; some may be written.
    """
    limits = Limits(replicas=SAFE if connection.servers >= SAFE else 1)
    there = await boards(connection)
    made = tuple(board for board in policy.boards() if board not in there)
    for board in made:
        await create_board(connection, board, limits)
    await connection.create_stream(access_stream(limits, connection.prefix))
    wanted = {
        name: msgspec.structs.replace(member.rights, key=keys.agents[name])
        for name, member in policy.members.items()
    }
    found = await _documents(connection)
    granted = tuple(name for name, rights in wanted.items() if not _same(rights, found.get(name)))
    # Who was never there before has no document to be emptied.
    revoked = tuple(name for name, rights in found.items() if rights and name not in wanted)
    for board, agent in revoked:
        await connection.publish(Outgoing(rights_subject(board, agent), b""))
    for board, agent in granted:
        document = encode_record(wanted[board, agent])
        await connection.publish(Outgoing(rights_subject(board, agent), document))
    logger.info("access.enrolled", extra={"granted": len(granted), "revoked": len(revoked)})
    return Enrolled(made, granted, revoked)


def _same(rights: Rights, before: Rights | None) -> bool:
    return before is not None and msgspec.structs.replace(before, digest=rights.digest) == rights


async def _documents(connection: Connection) -> dict[tuple[str, str], Rights | None]:
    """The documents there are; None for an agent that has lost its rights, or has a broken one."""
    found: dict[tuple[str, str], Rights | None] = {}
    subject = rights_subject("*", "*")
    async with follow(connection, ACCESS_STREAM, subject, Start.newest()) as follower:
        while follower.pending:
            message = await follower.step()
            if message is None:
                continue
            _, board, agent = message.subject.split(".")
            try:
                rights = decode_record(message.data, Rights) if message.data else None
            except InvalidError:
                rights = None
            found[board, agent] = rights
    return found
