"""An agent: a name, a version, and the functions that handle what comes.

It is declared here and runs anywhere: `agent.run()` in a program, `blackboard run FILE` with
replicas, `async with agent.running(board)` inside other async code. Nothing connects before that.
"""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TypeVar

from blackboard.board import Blackboard
from blackboard.errors import InvalidError
from blackboard.runtime.declared import (
    ACK_WAIT_S,
    ATTEMPTS,
    By,
    Function,
    Handler,
    Until,
    seconds,
)
from blackboard.runtime.process import run
from blackboard.runtime.runner import GRACE_S, Runner, running
from blackboard.subjects import Pattern, check_name
from blackboard.watch import Since

FunctionT = TypeVar("FunctionT", bound=Function)
MAX_VERSION = 256


class Agent:
    """An agent, declared.

    Args:
        name: Letters a-z, digits, `_` and single `-`; on everything it writes.
        version: Of its code; recorded in what it writes.

    Raises:
        InvalidError: The name or the version cannot be used.
    """

    def __init__(self, name: str, version: str = "1") -> None:
        self.name = check_name("agent", name)
        if not version.isprintable() or not 0 < len(version.strip()) <= MAX_VERSION:
            raise InvalidError(
                f"the version must be printable text of 1 to {MAX_VERSION} characters"
            )
        self.version = version
        self.handlers: dict[str, Handler] = {}

    def on(
        self,
        pattern: str,
        *,
        tags: Mapping[str, str] | None = None,
        to: str | None = None,
        concurrency: int = 1,
        own: bool = False,
        name: str | None = None,
        attempts: int = ATTEMPTS,
        ack_wait: float = ACK_WAIT_S,
        start: Since | str = None,
    ) -> Callable[[FunctionT], FunctionT]:
        """Handle each memory under a pattern, at least once; what it writes is stored exactly once.

        The function gets the memory and a board. What it puts, and what it returns, is one
        transaction with its input: all of it is on the board, or nothing. It returns content, a
        `Memory`, a list of `Memory`, or None; a returned memory of `once` puts nothing more.

        Args:
            pattern: `*` is one token, a last `>` zero or more.
            tags: Only memories with all of these.
            to: The topic of what it returns.
            concurrency: Memories in hand at once, in each replica.
            own: Also the agent's own memories.
            name: None takes the function's.
            attempts: Tries until it becomes a dead letter.
            ack_wait: Seconds until another replica gets what this one has stopped working on.
            start: Where a new handler begins: None or "now", "start", a time, a timedelta ago, or a
                revision. `--start` overrides it.

        Raises:
            InvalidError: An argument breaks a rule, or the agent has a handler of this name.
        """

        def declare(function: FunctionT) -> FunctionT:
            handler = Handler(
                name=name or function.__name__,
                kind="on",
                pattern=Pattern.parse(pattern),
                function=function,
                to=to,
                tags=dict(tags or {}),
                own=own,
                concurrency=concurrency,
                attempts=attempts,
                ack_wait_s=ack_wait,
                start=start,
            )
            self._add(handler)
            return function

        return declare

    def gather(
        self,
        pattern: str,
        *,
        by: By = "session",
        until: Until | None = None,
        idle: timedelta | float | None = None,
        to: str | None = None,
        tags: Mapping[str, str] | None = None,
        concurrency: int = 8,
        own: bool = False,
        name: str | None = None,
        attempts: int = ATTEMPTS,
        ack_wait: float = ACK_WAIT_S,
        start: Since | str = None,
    ) -> Callable[[FunctionT], FunctionT]:
        """Collect memories in groups and handle each group once, when it is complete.

        The function gets the parts in the order of their first arrival, and a board. A part that
        comes later or changes, and one that is taken back, has the group merged again, as the next
        revision of the same output, if `until` still holds. When it does not, the last merge stays.

        Args:
            pattern: Of the parts.
            by: `session`, `user`, `kind`, `topic`, `agent`, `access`, `tags.<name>`, or a function
                of the memory. Parts without a value are counted and skipped.
            until: How many parts make a group complete, or a function of the parts, sync or async.
            idle: After this long without a new part the group is merged as it is.
            to: The topic of what the function returns.
            tags: Only memories with all of these.
            concurrency: Parts in hand at once, in each replica.
            own: As in `on`, as are the following.
            name: None takes the function's.
            attempts: Tries until a part becomes a dead letter.
            ack_wait: Seconds.
            start: Where a new handler begins.

        Raises:
            InvalidError: An argument breaks a rule, or the agent has a handler of this name.
        """

        def declare(function: FunctionT) -> FunctionT:
            handler = Handler(
                name=name or function.__name__,
                kind="gather",
                pattern=Pattern.parse(pattern),
                function=function,
                to=to,
                tags=dict(tags or {}),
                own=own,
                concurrency=concurrency,
                attempts=attempts,
                ack_wait_s=ack_wait,
                start=start,
                by=by,
                until=until,
                idle_s=seconds(idle),
            )
            self._add(handler)
            return function

        return declare

    def answers(
        self,
        pattern: str,
        *,
        tags: Mapping[str, str] | None = None,
        concurrency: int = 1,
        name: str | None = None,
        attempts: int = ATTEMPTS,
        ack_wait: float = ACK_WAIT_S,
        start: Since | str = None,
    ) -> Callable[[FunctionT], FunctionT]:
        """Answer requests that `board.ask` puts under a pattern.

        The function returns the answer, or None to leave the request to others. Of several answers
        the first is stored; the later ones are dropped and counted.

        Args:
            pattern: Of the requests.
            tags: Only requests with all of these.
            concurrency: Requests in hand at once, in each replica.
            name: None takes the function's.
            attempts: Tries until a request becomes a dead letter.
            ack_wait: Seconds.
            start: Where a new handler begins.

        Raises:
            InvalidError: An argument breaks a rule, or the agent has a handler of this name.
        """

        def declare(function: FunctionT) -> FunctionT:
            handler = Handler(
                name=name or function.__name__,
                kind="answers",
                pattern=Pattern.parse(pattern),
                function=function,
                tags=dict(tags or {}),
                own=True,
                concurrency=concurrency,
                attempts=attempts,
                ack_wait_s=ack_wait,
                start=start,
            )
            self._add(handler)
            return function

        return declare

    def _add(self, handler: Handler) -> None:
        if handler.name in self.handlers:
            raise InvalidError(
                f"agent {self.name!r} has a handler {handler.name!r} already; pass name="
            )
        self.handlers[handler.name] = handler

    def run(self, argv: Sequence[str] | None = None) -> None:
        """Run until SIGTERM or SIGINT, on the board that the settings name; blocks.

        It takes `--start now|start|TIME` and `--grace SECONDS`. After the first signal it takes
        nothing new and finishes what it has in hand within the grace period; after the second it
        leaves at once.

        Args:
            argv: Arguments; None takes the program's.

        Raises:
            SystemExit: With 1 when it failed, 2 when the settings are wrong.
        """
        code = run(self, argv)
        if code:
            raise SystemExit(code)

    @asynccontextmanager
    async def running(
        self,
        board: Blackboard,
        *,
        start: Since | str = None,
        grace: float = GRACE_S,
        launch: str | None = None,
    ) -> AsyncGenerator[Runner]:
        """Run inside other async code; on leaving, finish what is in hand or give it back.

        On entering, every handler's consumer is there: what is put from then on is handled.

        Args:
            board: An open board; what is written carries the agent's name, not the board's.
            start: "now", "start", a time…: begin there anew, as a new run. None goes on.
            grace: Seconds for what is in hand at the end.
            launch: Replicas with the same launch begin anew together, once.

        Raises:
            SettingsError: A handler's consumer has other settings than its code, or was removed.
        """
        async with running(self, board, start=start, grace_s=grace, launch=launch) as runner:
            yield runner
