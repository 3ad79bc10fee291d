"""How a service of another process tells the ledger what it read for an agent.

The steward keeps the ledger; the others ask it to record, and answer their callers after it did.
"""

import msgspec

from blackboard.errors import InvalidError, UnavailableError
from blackboard.jetstream import Answer, Connection, refusal
from blackboard.ledger.items import Denied, Privileged, Served
from blackboard.ledger.keeper import Ledger
from blackboard.subjects import service_subject

VERB = "note"
Told = Served | Denied | Privileged
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(tuple[Told, ...]).decode


class Teller:
    """Tells the ledger of one board.

    Args:
        connection: Of a service; at a broker without credentials there is nothing to tell.
        board: The board's name.
    """

    def __init__(self, connection: Connection, board: str) -> None:
        self._connection = connection
        self._board = board

    async def noted(self, *items: Told) -> None:
        """Have items recorded, and wait until they are; see `Ledger.noted`.

        Raises:
            UnavailableError: No steward recorded them; do not do what they say.
        """
        identity = self._connection.identity
        if identity is None or not items:
            return
        subject = service_subject(self._board, VERB, identity.agent)
        answer = await self._connection.request(subject, _encode(items))
        refused = refusal(answer.headers, answer.data)
        if refused is not None:
            raise UnavailableError(refused[1])


async def record(ledger: Ledger, tellers: frozenset[str], subject: str, body: bytes) -> Answer:
    """Answer a `Teller`: record what it says, if it is one of those who may.

    Args:
        ledger: Of the board.
        tellers: The services that are believed.
        subject: Of the request; its last token is the caller, by the broker's word.
        body: The items.
    """
    caller = subject.rsplit(".", 1)[-1]
    if caller not in tellers:
        ledger.note(Denied(agent=caller, act=VERB, what="ledger"))
        return 403, f"agent {caller!r} may not write to the ledger"
    try:
        items = _decode(body)
    except msgspec.MsgspecError as error:
        return 400, str(InvalidError(f"no items of a ledger: {error}"))
    try:
        await ledger.noted(*items)
    except UnavailableError as error:
        return 503, str(error)
    return b"{}"
