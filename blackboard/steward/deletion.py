"""Deleting one message, with the audit event that says so."""

from blackboard.errors import BlackboardError, UnavailableError
from blackboard.journal import Journal
from blackboard.log import Log

Unsure = set[tuple[str, int]]
"""Messages, by stream and sequence, of which nobody can say whether they were overwritten: a broker
that is killed may have deleted one and not come to its bytes, and does not find it any more."""


async def delete(
    log: Log,
    journal: Journal,
    stream: str,
    sequence: int,
    what: str,
    *,
    erase: bool,
    unsure: Unsure | None = None,
) -> bool:
    """Delete a message and note it; False when it was gone already.

    Args:
        log: Says where the broker is.
        journal: Notes what was deleted, and what may have been.
        stream: Where the message lies.
        sequence: Its sequence.
        what: The reference, or the chunk's subject, for the audit.
        erase: As for `Connection.delete`.
        unsure: Learns of what may be deleted and not overwritten.

    Raises:
        BrokerError: The broker refused.
        UnavailableError: No answer in time; deleted or not.
    """
    try:
        deleted = await log.connection.delete(stream, sequence, erase=erase)
    except BlackboardError as error:
        # An answer that was lost may have been a yes, and the next try will not find the message.
        journal.audit("delete", what, revision=sequence, outcome=type(error).__name__)
        if unsure is not None and isinstance(error, UnavailableError):
            unsure.add((stream, sequence))
        raise
    if deleted:
        if unsure is not None:
            unsure.discard((stream, sequence))
        journal.audit("delete", what, revision=sequence)
    return deleted
