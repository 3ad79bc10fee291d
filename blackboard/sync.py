"""The board for synchronous code: the same names, signatures and errors, without `await`.

An event loop of its own runs in a thread; every call hands its work over and waits. The methods are
made from those of `Blackboard`, so that there is one set of signatures and docstrings to keep true.
"""

import functools
from collections.abc import (
    AsyncIterator,
    Callable,
    Coroutine,
    Generator,
    ItemsView,
    Iterator,
    Mapping,
    ValuesView,
)
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager as Opened,
    contextmanager,
)
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import anyio
from anyio.from_thread import BlockingPortal, start_blocking_portal

from blackboard.board import Blackboard
from blackboard.errors import NoAnswerError
from blackboard.messages import Memory
from blackboard.settings import Limits
from blackboard.subjects import Ref
from blackboard.view import LIMIT, View

ParametersP = ParamSpec("ParametersP")
ResultT = TypeVar("ResultT")

Method = Callable[Concatenate[Blackboard, ParametersP], Coroutine[Any, Any, ResultT]]
Stream = Callable[
    Concatenate[Blackboard, ParametersP], AbstractAsyncContextManager[AsyncIterator[ResultT]]
]


def _waiting(
    method: Method[ParametersP, ResultT],
) -> "Callable[Concatenate[SyncBlackboard, ParametersP], ResultT]":
    """The same method, returning when it is done."""

    @functools.wraps(method)
    def call(
        self: "SyncBlackboard", *args: ParametersP.args, **kwargs: ParametersP.kwargs
    ) -> ResultT:
        return self.run(functools.partial(method, self.board, *args, **kwargs))

    return call


def _iterating(
    method: Stream[ParametersP, ResultT],
) -> "Callable[Concatenate[SyncBlackboard, ParametersP], Opened[Iterator[ResultT]]]":
    """The same method, giving a plain iterator that waits for each next item."""

    @functools.wraps(method)
    @contextmanager
    def opened(
        self: "SyncBlackboard", *args: ParametersP.args, **kwargs: ParametersP.kwargs
    ) -> Generator[Iterator[ResultT]]:
        stream = self.portal.call(functools.partial(method, self.board, *args, **kwargs))
        with _held(self.portal, stream) as items:
            yield self.each(items)

    return opened


@contextmanager
def _held(
    portal: BlockingPortal, context: AbstractAsyncContextManager[ResultT]
) -> Generator[ResultT]:
    """Enter a context in the loop's thread, and leave it with the block's error."""
    stop: BaseException | None = None
    with portal.wrap_async_context_manager(context) as entered:
        try:
            yield entered
        except (KeyboardInterrupt, SystemExit) as error:
            stop = error  # they concern this thread; the other's task groups would wrap them
    if stop is not None:
        raise stop


class SyncBlackboard:
    """A board for synchronous code; open it with `Blackboard.sync`, or one of the two below.

    It may be used from several threads at once. Functions given to `update` run in the loop's
    thread, so they must not call the board; those given to `once` run in threads of their own.

    Attributes:
        board: The board behind it.
        portal: The way into the loop's thread.
    """

    def __init__(self, portal: BlockingPortal, board: Blackboard) -> None:
        self.portal = portal
        self.board = board

    @classmethod
    @contextmanager
    def open(
        cls,
        url: str | None = None,
        board: str | None = None,
        agent: str = "reader",
        *,
        create: bool = True,
        limits: Limits | None = None,
    ) -> Generator["SyncBlackboard"]:
        """Open a board as `Blackboard.open` does, with an event loop in a thread."""
        opening = functools.partial(
            Blackboard.open, url, board, agent, create=create, limits=limits
        )
        with cls._within(opening) as opened:
            yield opened

    @classmethod
    @contextmanager
    def local(
        cls,
        data_dir: Path | str | None = None,
        board: str | None = None,
        agent: str = "reader",
    ) -> Generator["SyncBlackboard"]:
        """Open a board of the local stack as `Blackboard.local` does."""
        with cls._within(functools.partial(Blackboard.local, data_dir, board, agent)) as opened:
            yield opened

    @classmethod
    @contextmanager
    def _within(
        cls, opening: Callable[[], AbstractAsyncContextManager[Blackboard]]
    ) -> Generator["SyncBlackboard"]:
        with (
            start_blocking_portal("asyncio") as portal,
            _held(portal, portal.call(opening)) as board,
        ):
            yield cls(portal, board)

    @property
    def name(self) -> str:
        """The board's name."""
        return self.board.name

    @property
    def agent(self) -> str:
        """The name on what is written here."""
        return self.board.agent

    @property
    def url(self) -> str:
        """Where the broker is, without the secret."""
        return self.board.url

    def sibling(self, board: str | None = None, agent: str | None = None) -> "SyncBlackboard":
        """Another board, or another name, over the same connection; the board is made on first use.

        Raises:
            InvalidError: `board` or `agent` cannot be a name.
        """
        return SyncBlackboard(self.portal, self.portal.call(self.board.sibling, board, agent))

    put = _waiting(Blackboard.put)
    put_many = _waiting(Blackboard.put_many)
    revise = _waiting(Blackboard.revise)
    update = _waiting(Blackboard.update)
    retire = _waiting(Blackboard.retire)
    undo = _waiting(Blackboard.undo)
    reclassify = _waiting(Blackboard.reclassify)
    forget = _waiting(Blackboard.forget)
    preview_forget = _waiting(Blackboard.preview_forget)
    forget_order = _waiting(Blackboard.forget_order)
    receipt = _waiting(Blackboard.receipt)
    once = _waiting(Blackboard.once)
    get = _waiting(Blackboard.get)
    wait = _waiting(Blackboard.wait)
    ask = _waiting(Blackboard.ask)
    recall = _waiting(Blackboard.recall)
    query = _waiting(Blackboard.query)
    watch = _iterating(Blackboard.watch)
    replay = _iterating(Blackboard.replay)

    @contextmanager
    def view(self, pattern: str, *, limit: int = LIMIT) -> Generator["SyncView"]:
        """Keep a local copy of the live memories under a pattern; see `Blackboard.view`.

        Args:
            pattern: As in `watch`.
            limit: How many memories it may hold.

        Raises:
            TooLargeError: More match; narrow the pattern or raise the limit.
            InvalidError: The pattern is none.
        """
        view = self.portal.call(functools.partial(self.board.view, pattern, limit=limit))
        with _held(self.portal, view) as opened:
            yield SyncView(self, opened)

    def run(self, function: Callable[[], Coroutine[Any, Any, ResultT]]) -> ResultT:
        """Call an async function in the loop's thread and wait; Ctrl-C here cancels it there."""
        future = self.portal.start_task_soon(function)
        try:
            return future.result()
        finally:
            future.cancel()

    def each(self, items: AsyncIterator[ResultT]) -> Iterator[ResultT]:
        """The items of an async iterator, waiting for each."""

        async def following() -> ResultT:
            return await anext(items)

        while True:
            try:
                item = self.run(following)
            except StopAsyncIteration:
                return
            yield item


class SyncView(Mapping[Ref, Memory]):
    """A view for synchronous code: single reads are direct, listings are a consistent copy."""

    def __init__(self, board: SyncBlackboard, view: View) -> None:
        self._board = board
        self._view = view

    @property
    def pattern(self) -> str:
        """What the view holds."""
        return self._view.pattern

    def __getitem__(self, ref: Ref) -> Memory:
        return self._view[ref]

    def __iter__(self) -> Iterator[Ref]:
        return iter(self._copy())

    def __len__(self) -> int:
        return len(self._copy())

    def items(self) -> ItemsView[Ref, Memory]:
        """References and memories as they are now."""
        return self._copy().items()

    def values(self) -> ValuesView[Memory]:
        """Memories as they are now."""
        return self._copy().values()

    def _copy(self) -> dict[Ref, Memory]:
        # In the loop's thread, where nothing changes the view meanwhile.
        return self._board.portal.call(_live, self._view)

    def changed(self, timeout: float | None = None) -> None:
        """Wait until something changed since this was last called, or since the view began.

        Args:
            timeout: Seconds; None waits for ever.

        Raises:
            NoAnswerError: Nothing changed in time.
            TooLargeError: More memories match than the view may hold.
        """

        async def wait() -> bool:
            with anyio.move_on_after(timeout) as scope:
                await self._view.changed()
            return scope.cancelled_caught

        if self._board.run(wait):
            raise NoAnswerError(f"nothing under {self.pattern!r} changed within {timeout} s")


def _live(view: View) -> dict[Ref, Memory]:
    found = {ref: view.get(ref) for ref in view}
    return {ref: memory for ref, memory in found.items() if memory is not None}
