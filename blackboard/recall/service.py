"""The recall service: answers for every board on a broker, as a micro service per board.

Indexing costs more than anything else here: a model in memory, and a core while there is much to
embed. So where it runs on somebody's machine just in case (`lazy`), a board is indexed from the
first question on, and after that from every start on; until then the service is a listener without
the libraries of its trade.
"""

import gc
import importlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.to_thread
import msgspec

from blackboard.access.identity import inbox_of
from blackboard.background import background
from blackboard.codec import decode_record, encode_record
from blackboard.errors import (
    BlackboardError,
    DeniedError,
    InvalidError,
    ModelBusyError,
    ModelRefusedError,
    RetryableError,
    SettingsError,
)
from blackboard.jetstream import Answer, Connection, Handler, serve_requests
from blackboard.ledger import Served
from blackboard.ledger.teller import Teller
from blackboard.recall.home import Home
from blackboard.roster import Roster
from blackboard.search import (
    Filter,
    Grant,
    QueryRequest,
    RecallRequest,
    ReindexRequest,
)
from blackboard.service import keep_boards, take_desk
from blackboard.session import Desk as Place
from blackboard.settings import Settings
from blackboard.subjects import Ref, check_name, service_subject

if TYPE_CHECKING:
    from blackboard.recall.desk import Desk
    from blackboard.recall.embedders import Embedders

logger = logging.getLogger(__name__)

AGENT = "recall"
INSTALL = "python -m pip install 'blackboard-agents[embed,recall]'"

CODES: Sequence[tuple[type[BlackboardError], int]] = (
    (DeniedError, 403),
    (InvalidError, 400),
    (SettingsError, 409),
    (ModelBusyError, 429),
    (ModelRefusedError, 502),
    (RetryableError, 503),
    (BlackboardError, 500),
)
"""What stands in an answer for an error, as in HTTP; the first that fits."""

RequestT = TypeVar("RequestT", bound=msgspec.Struct)
Rights = Callable[[str, str], tuple[Grant, ...] | None]
"""What an agent may read of a board, by board and agent; None when no rights are enforced."""


def everything(_board: str, _agent: str) -> tuple[Grant, ...] | None:
    """No rights are enforced."""
    return None


async def serve(
    connection: Connection,
    settings: Settings,
    *,
    lazy: bool = False,
    rights: Rights = everything,
) -> None:
    """Answer for every board on the broker until cancelled; boards may come and go meanwhile.

    Args:
        connection: Survives the broker's restarts.
        settings: Where indexes are kept, and which embedder new ones get.
        lazy: Index only boards that somebody has asked about, now or before; and leave it to
            whoever runs this service to make the data directory.
        rights: Asked with every question, where the broker has no credentials; where it has, the
            access policy in force is.

    Raises:
        SettingsError: The data directory cannot be made, or was removed.
    """
    home = Home(settings.data_dir, make=not lazy)
    async with AsyncExitStack() as stack, background() as group:
        group.start_soon(home.watch)
        trade = Trade(settings, home, stack)

        async def keep(board: str) -> None:
            roster = Roster(connection, board)
            granted = roster.grants if roster.enforced else rights
            librarian = Librarian(connection, settings, board, trade, lazy=lazy, rights=granted)
            async with background() as readers:
                readers.start_soon(roster.run)
                await librarian.run()

        await keep_boards(connection, keep)


class Trade:
    """What indexing needs, shared by the boards of a process and loaded when the first needs it.

    Args:
        settings: Of this process.
        home: Its data directory.
        stack: Closes what was opened.
    """

    def __init__(self, settings: Settings, home: Home, stack: AsyncExitStack) -> None:
        self._settings = settings
        self._home = home
        self._stack = stack
        self._embedders: Embedders | None = None
        self._loading = anyio.Lock()

    async def desk(self, place: Place) -> "Desk":
        """The desk of a board.

        Raises:
            SettingsError: The extra is not installed.
        """
        async with self._loading:
            try:
                # It takes most of a second, in which those who wait shall be told so.
                await anyio.to_thread.run_sync(_load)
            except ImportError as error:
                raise SettingsError(
                    f"recall is not installed where its service runs ({error.name} is missing); "
                    f"run: {INSTALL}"
                ) from error
            from blackboard.recall.desk import Desk  # noqa: PLC0415 - see `_load`
            from blackboard.recall.embedders import Embedders  # noqa: PLC0415
            from blackboard.recall.library import Library  # noqa: PLC0415
            from blackboard.recall.shelf import Shelf  # noqa: PLC0415

            if self._embedders is None:
                self._embedders = await self._stack.enter_async_context(Embedders(self._settings))
        shelf = Shelf(self._settings, self._home, place.log.board)
        return Desk(Library(place.log, place.reader, shelf, self._embedders))


def _load() -> None:
    """Load what indexing needs; only now, because it is much and may not be installed."""
    importlib.import_module("blackboard.recall.desk")
    importlib.import_module("blackboard.recall.edge")
    # It stays until the process ends; to look through it for garbage again and again would hold up
    # answers for tens of milliseconds.
    gc.freeze()


class Librarian:
    """Answers for one board."""

    def __init__(
        self,
        connection: Connection,
        settings: Settings,
        board: str,
        trade: Trade,
        *,
        lazy: bool,
        rights: Rights,
    ) -> None:
        self._connection = connection
        self._settings = settings
        self._board = board
        self._trade = trade
        self._rights = rights
        self._teller = Teller(connection, board)
        self._asked = anyio.Event()
        if not lazy or (settings.data_dir / "recall" / board).is_dir():
            self._asked.set()
        self._desk: Desk | None = None
        self._opened = anyio.Event()
        self._failure: SettingsError | None = None

    async def run(self) -> None:
        """Answer until cancelled."""
        verbs: dict[str, Handler] = {
            "recall": self._recall,
            "query": self._query,
            "status": self._status,
            "reindex": self._reindex,
        }
        handlers = {
            verb: (service_subject(self._board, verb, "*"), handler)
            for verb, handler in verbs.items()
        }
        async with serve_requests(
            self._connection,
            f"recall-{self._board}",
            handlers,
            description=f"finds memories of board {self._board}",
            metadata={"board": self._board},
            inbox_of=inbox_of if self._connection.identity is not None else None,
        ):
            await self._keep()

    async def _keep(self) -> None:
        await self._asked.wait()
        async with take_desk(self._connection, self._settings, self._board, AGENT) as place:
            try:
                desk = await self._trade.desk(place)
            except SettingsError as error:
                self._failure = error
                self._opened.set()
                logger.warning("board %s: %s", self._board, error)
                await anyio.sleep_forever()
                raise
            self._desk = desk
            self._opened.set()
            logger.info("board %s is indexed", self._board)
            await desk.library.run()

    async def _recall(self, subject: str, body: bytes) -> Answer:
        async def answer() -> msgspec.Struct:
            grants = self._granted(subject)
            request = _read(body, RecallRequest)
            request.check()
            found = await (await self._found()).recall(request, grants)
            if grants is not None:
                await self._tell(subject, "recall", request.where, [hit.ref for hit in found.hits])
            return found

        return await _answered(answer)

    async def _query(self, subject: str, body: bytes) -> Answer:
        async def answer() -> msgspec.Struct:
            grants = self._granted(subject)
            request = _read(body, QueryRequest)
            request.check()
            found = await (await self._found()).query(request, grants)
            if grants is not None:
                await self._tell(subject, "query", request.where, found.rows)
            return found

        return await _answered(answer)

    async def _status(self, subject: str, body: bytes) -> Answer:
        async def answer() -> msgspec.Struct:
            self._check_operator(subject)
            if not self._asked.is_set():
                raise RetryableError("the board is not indexed; its first recall begins that")
            return await (await self._found()).library.status()

        return await _answered(answer)

    async def _reindex(self, subject: str, body: bytes) -> Answer:
        async def answer() -> msgspec.Struct:
            self._check_operator(subject)
            request = _read(body, ReindexRequest)
            return await (await self._found()).library.reindex(request.embedder)

        return await _answered(answer)

    async def _tell(self, subject: str, verb: str, where: Filter, refs: Sequence[Ref]) -> None:
        """Have it recorded what an agent is about to be told, before it is."""
        agent = subject.rsplit(".", 1)[-1]
        asked = (
            Served(agent=agent, verb=verb, what=where.topic or ">", user=user)
            for user in where.users or (None,)
        )
        shown = (
            Served(agent=agent, verb=verb, what=str(ref.unpinned), revision=ref.revision)
            for ref in refs
        )
        await self._teller.noted(*asked, *shown)

    def _granted(self, subject: str) -> tuple[Grant, ...] | None:
        # The broker lets an agent ask under its own name only.
        agent = check_name("agent", subject.rsplit(".", 1)[-1])
        return self._rights(self._board, agent)

    def _check_operator(self, subject: str) -> None:
        """Refuse an agent whose rights are limited: the index as a whole tells of all memories."""
        if self._granted(subject) is not None:
            raise DeniedError(
                f"agent {subject.rsplit('.', 1)[-1]!r} may not see or change the index of board "
                f"{self._board!r} as a whole; that is for operators: use the command line with "
                "theirs"
            )

    async def _found(self) -> "Desk":
        self._asked.set()
        await self._opened.wait()
        if self._desk is None:
            raise self._failure or SettingsError("recall does not work here; see the service's log")
        return self._desk


def _read(body: bytes, kind: type[RequestT]) -> RequestT:
    return decode_record(body or b"{}", kind)


async def _answered(answer: Callable[[], Awaitable[msgspec.Struct]]) -> Answer:
    """The body of an answer, or the code and text of what went wrong; the service goes on."""
    try:
        return encode_record(await answer())
    except BlackboardError as error:
        return next(code for kind, code in CODES if isinstance(error, kind)), str(error)
    except Exception as error:
        logger.exception("a question failed")
        return 500, f"{type(error).__name__}; see the service's log"
