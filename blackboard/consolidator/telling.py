"""What a running consolidator tells of its work: what is due, what of it waits, and why.

It is asked over the broker, as recall is, and answers from what it knows. Nothing of that is put on
the board: it names sessions and users, which forgetting would have to look for there. Several that
serve a board have each a view of their own; any of them answers.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime

import msgspec

from blackboard.access.identity import SERVICES, inbox_of
from blackboard.codec import decode_record, encode_record
from blackboard.consolidator.bench import Outcome
from blackboard.errors import BlackboardError, DeniedError, UnavailableError
from blackboard.jetstream import Answer, Connection, NoStreamError, refusal, serve_requests
from blackboard.subjects import service_subject

VERB = "condensing"
MOST = 200
"""Groups that are named in one answer."""
ANSWER_S = 5.0


class Waits(msgspec.Struct, frozen=True):
    """A group that is due and not condensed yet, or whose sources are not retired yet, and why."""

    group: str
    why: str
    until: datetime | None = None
    memories: int = 0


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """How far a consolidator is with a board.

    Attributes:
        since: When it began; what it did counts from then.
        looked: When it last looked for what is due; None when it is not through with the board.
        groups: On the board.
        undone: Memories that somebody took back from a summary; they are left alone.
        model: Asked for summaries; None picks sentences.
        budget: What the model may still take, in words.
        waits: What is not done; of more than 200 groups the first.
        waiting: How many groups that are.
        done: What it did.
    """

    since: datetime
    looked: datetime | None
    groups: int
    undone: int
    model: str | None = None
    budget: str | None = None
    waits: tuple[Waits, ...] = ()
    waiting: int = 0
    done: Outcome


@asynccontextmanager
async def telling(
    connection: Connection, board: str, tell: Callable[[], Awaitable[Told]]
) -> AsyncGenerator[None]:
    """Answer for the block who asks how far it is; with credentials, operators only."""

    async def answer(subject: str, _body: bytes) -> Answer:
        agent = subject.rpartition(".")[2]
        if connection.identity is not None and agent not in SERVICES:
            return 403, f"agent {agent!r} may not see the work on board {board!r} as a whole"
        try:
            return encode_record(await tell())
        except BlackboardError as error:
            return 503, str(error)

    handlers = {VERB: (service_subject(board, VERB, "*"), answer)}
    async with serve_requests(
        connection,
        f"consolidator-{board}",
        handlers,
        description=f"condenses old memories of board {board}",
        metadata={"board": board},
        inbox_of=inbox_of if connection.identity is not None else None,
    ):
        yield


async def ask(connection: Connection, board: str, agent: str) -> Told | None:
    """Ask a running consolidator how far it is; None when none serves the board.

    Raises:
        DeniedError: This agent may not ask.
        UnavailableError: It does not answer now.
    """
    subject = service_subject(board, VERB, agent)
    try:
        answer = await connection.request(subject, b"", timeout_s=ANSWER_S)
    except NoStreamError:
        return None
    refused = refusal(answer.headers, answer.data)
    if refused is None:
        return decode_record(answer.data, Told)
    code, text = refused
    raise (DeniedError if code == 403 else UnavailableError)(text)
