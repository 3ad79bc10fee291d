"""The asking side of recall: requests to the service, and hits filled in from the board.

The service answers with references. What they name is read here, newest revision, under this
agent's own rights, and held against the question once more: so nothing that expired, was taken back
or no longer matches is shown, however far the index lags behind.
"""

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime

import anyio
import msgspec

from blackboard.codec import RecordT, decode_record, encode_record
from blackboard.errors import (
    BlackboardError,
    DeniedError,
    InvalidError,
    ModelBusyError,
    ModelRefusedError,
    SettingsError,
    TerminalError,
    UnavailableError,
)
from blackboard.hits import Hit, Hits, Rows
from blackboard.jetstream import NoStreamError, refusal
from blackboard.journal import Journal
from blackboard.log import Log
from blackboard.messages import Memory
from blackboard.reader import Reader
from blackboard.scan import can_scan, scan
from blackboard.search import (
    MAX_LIMIT,
    Found,
    QueryAnswer,
    QueryRequest,
    RecallAnswer,
    RecallRequest,
    ReindexRequest,
    State,
    Status,
)
from blackboard.subjects import Ref, service_subject

logger = logging.getLogger(__name__)

ANSWER_S = 10.0
"""How long the service may take, beside what it waits for the asker's own last write."""
START_S = 3.0
"""How long nobody may answer: a stack, or a board, that was just made has its service soon."""
RETRY_S = 0.1
ENDING = 410
"""The code of an answer that says that the service ended with the request in hand."""
ROUNDS = 4
"""How often more is asked for when hits fall away."""
AT_ONCE = 32
NOBODY = (
    "no recall service answers for board {board!r}: `blackboard up` runs one, beside a broker of "
    "your own `python -m blackboard.recall` does"
)


class Finder:
    """One agent's questions to the index of one board."""

    def __init__(self, log: Log, reader: Reader, journal: Journal) -> None:
        self._log = log
        self._reader = reader
        self._journal = journal

    async def recall(self, request: RecallRequest) -> Hits:
        """Find memories by meaning; see `Blackboard.recall`."""
        request.check()
        found: dict[Ref, Hit] = {}
        state = State()
        seen: set[Ref] = set()
        asked = request.limit
        for _ in range(ROUNDS):
            again = msgspec.structs.replace(request, limit=asked)
            answer = await self._ask("recall", again, RecallAnswer, request.patience_s)
            state = answer.state
            new = [hit for hit in answer.hits if hit.ref.unpinned not in seen]
            seen.update(hit.ref.unpinned for hit in new)
            memories = await self._read([hit.ref for hit in new])
            for hit, memory in zip(new, memories, strict=True):
                if memory is not None and request.where.selects(memory):
                    found[hit.ref.unpinned] = _hit(hit, memory)
            enough = len(found) >= request.limit
            if enough or len(answer.hits) < asked or asked == MAX_LIMIT:
                break
            asked = min(MAX_LIMIT, 2 * asked)
        hits = Hits(list(found.values())[: request.limit], state)
        self._note("recall", [hit.memory for hit in hits])
        return hits

    async def query(self, request: QueryRequest, at: datetime | None) -> Rows:
        """Select memories by their metadata; see `Blackboard.query`."""
        request.check()
        if at is not None:
            rows = await scan(self._log, self._reader, request, at)
        else:
            simple = can_scan(request.where)
            try:
                rows = await self._query(request, patient=not simple)
            except UnavailableError as error:
                if not simple:
                    raise UnavailableError(
                        f"{error}. Without it only topic, agent, session and time can be asked for"
                    ) from error
                logger.info("finder.scans", extra={"error": str(error)})
                rows = await scan(self._log, self._reader, request, None)
        self._note("query", rows)
        return rows

    async def status(self) -> Status:
        """How the index is.

        Raises:
            UnavailableError: No service answers, or it has not begun to index this board.
            SettingsError: What recall needs is not installed where its service runs.
        """
        return await self._ask("status", None, Status, 0.0, patient=False)

    async def reindex(self, embedder: str | None) -> Status:
        """Have a new index built beside the old one; returns when that began.

        Raises:
            UnavailableError: No service answers.
            SettingsError: That embedder cannot be used.
        """
        return await self._ask("reindex", ReindexRequest(embedder=embedder), Status, 30.0)

    async def _query(self, request: QueryRequest, *, patient: bool) -> Rows:
        page: list[Memory] = []
        cursor = request.cursor
        first: QueryAnswer | None = None
        while True:
            missing = request.limit - len(page)
            # Counts are those of the first answer: the pages behind it are the same rows.
            counts = request.count_by if first is None else ()
            again = msgspec.structs.replace(request, limit=missing, cursor=cursor, count_by=counts)
            answer = await self._ask(
                "query", again, QueryAnswer, request.patience_s, patient=patient
            )
            first = first or answer
            memories = await self._read([ref.unpinned for ref in answer.rows])
            page += [
                memory
                for memory in memories
                if memory is not None and request.where.selects(memory)
            ]
            cursor = answer.cursor
            if cursor is None or len(page) >= request.limit:
                break
        return Rows(page, cursor=cursor, counts=first.counts, total=first.total, state=first.state)

    async def _read(self, refs: Sequence[Ref]) -> list[Memory | None]:
        """The newest revisions, each None where it is gone, expired or cannot be shown."""
        found: list[Memory | None] = [None] * len(refs)
        if not refs:
            return found
        slots = anyio.Semaphore(AT_ONCE)
        failure: BlackboardError | None = None

        async def one(place: int, ref: Ref) -> None:
            nonlocal failure
            async with slots:
                try:
                    found[place] = await self._reader.newest(ref)
                except TerminalError:
                    found[place] = None
                except BlackboardError as error:
                    failure = error

        async with anyio.create_task_group() as group:
            for place, ref in enumerate(refs):
                group.start_soon(one, place, ref.unpinned)
        if failure is not None:
            raise failure
        return found

    async def _ask(
        self,
        verb: str,
        request: msgspec.Struct | None,
        kind: type[RecordT],
        patience_s: float,
        *,
        patient: bool = True,
    ) -> RecordT:
        subject = service_subject(self._log.board, verb, self._log.agent)
        body = b"" if request is None else encode_record(request)
        began = anyio.current_time()
        while True:
            late = not patient or anyio.current_time() - began > START_S
            try:
                answer = await self._log.connection.request(
                    subject, body, timeout_s=ANSWER_S + patience_s
                )
            except NoStreamError as error:
                if late:
                    raise UnavailableError(NOBODY.format(board=self._log.board)) from error
            else:
                refused = refusal(answer.headers, answer.data)
                if late or refused is None or refused[0] != ENDING:
                    break
            await anyio.sleep(RETRY_S)
        if refused is not None:
            raise _error(*refused)
        return decode_record(answer.data, kind)

    def _note(self, act: str, memories: Sequence[Memory]) -> None:
        trace = self._log.telemetry.trace_id()
        for memory in memories:
            self._journal.audit(act, str(memory.ref), revision=memory.revision, trace=trace)


def _hit(found: Found, memory: Memory) -> Hit:
    return Hit(memory, found.score, dict(found.why))


ERRORS: Mapping[int, type[BlackboardError]] = {
    400: InvalidError,
    403: DeniedError,
    409: SettingsError,
    410: UnavailableError,
    429: ModelBusyError,
    502: ModelRefusedError,
    503: UnavailableError,
}
"""What the service means by its codes, which are those of HTTP; any other is terminal."""


def _error(code: int, text: str) -> BlackboardError:
    return ERRORS.get(code, TerminalError)(text)
