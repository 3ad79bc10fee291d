"""What the workers of a run did and saw, as they wrote it down before they died.

Times are nanoseconds of the machine's one monotonic clock, so that those of different processes can
be compared. An operation that has begun and has no end is unknown: stored or not.
"""

import itertools
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Literal, TypeVar

import msgspec

from blackboard.errors import (
    BoardFullError,
    ConflictError,
    GoneError,
    MakeFailedError,
    NotFoundError,
    UnavailableError,
)
from tests.children import tell

ResultT = TypeVar("ResultT")
Outcome = Literal["ok", "conflict", "refused", "absent", "unknown"]

NEVER = 1 << 62
END = "*/load.end/end"
"""The last memory of a run: who follows the board ends with it."""
DEFINITE: dict[type[Exception], Outcome] = {
    ConflictError: "conflict",
    BoardFullError: "refused",
    MakeFailedError: "refused",
    NotFoundError: "absent",
    GoneError: "absent",
    UnavailableError: "unknown",
}


class Op(msgspec.Struct, frozen=True, kw_only=True):
    """One call to the board.

    Attributes:
        worker: The process; one that was killed goes on under another name.
        number: Of the call, in that process.
        do: put, put_many, revise, update, get or once.
        begin: When it was called.
        end: When it returned; `NEVER` when it did not.
        outcome: What became of it; conflict, refused and absent stored nothing for certain.
        ref: The memory, unpinned; empty when it is a new one.
        values: The unique values it wrote, in order; of `once`, the run that was served.
        expected: The revision it expected.
        revisions: Those it was told: of each value, or of what it read.
        key: Of `once`: the piece of work.
    """

    worker: str
    number: int
    do: str
    begin: int
    end: int = NEVER
    outcome: Outcome = "unknown"
    ref: str = ""
    values: list[str] = []
    expected: int | None = None
    revisions: list[int] = []
    key: int = -1

    def __str__(self) -> str:
        return f"{self.worker} #{self.number} {self.do} {self.ref} {self.values[:2]} {self.outcome}"


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """One revision that lies on the board at the end."""

    revision: int
    ref: str
    topic: str
    content: dict[str, Any]
    session: str | None = None

    @property
    def value(self) -> str:
        return str(self.content.get("v"))


class Reading(msgspec.Struct, kw_only=True):
    """What one watcher was shown.

    Attributes:
        since: `start`, or `now`.
        ready: When it had begun.
        seen: Revision and value, in the order of delivery.
        ended: It has come to the last memory of the run.
    """

    worker: str
    since: str
    ready: int
    seen: list[tuple[int, str]]
    ended: bool = False


class History(msgspec.Struct):
    """All that the workers wrote down."""

    ops: list[Op] = []
    readings: list[Reading] = []
    views: dict[str, dict[str, int]] = {}
    """By worker: reference and revision of all that its view held at the end."""

    def take(self, worker: str, lines: Iterable[dict[str, Any]]) -> None:
        """Take in what one process wrote."""
        begun: dict[int, dict[str, Any]] = {}
        readings: dict[str, Reading] = {}
        for line in lines:
            if "op" in line:
                begun.setdefault(line["op"], {}).update(line)
            elif "watching" in line:
                name = str(line["watching"])
                readings[name] = Reading(worker=worker, since=name, ready=line["at"], seen=[])
            elif "saw" in line:
                readings[line["saw"]].seen.append((line["revision"], line["value"]))
            elif "ended" in line:
                readings[line["ended"]].ended = True
            elif "view" in line:
                self.views[worker] = line["view"]
        self.readings += readings.values()
        self.ops += [
            msgspec.convert(facts | {"worker": worker, "number": number}, Op)
            for number, facts in begun.items()
        ]


class Recorder:
    """Writes down the calls of this process: what is tried, before; what became of it, after."""

    def __init__(self) -> None:
        self._numbers = itertools.count()

    async def call(
        self,
        do: str,
        action: Callable[[], Awaitable[ResultT]],
        learned: Callable[[ResultT], dict[str, Any]],
        **facts: Any,
    ) -> ResultT | None:
        """Do it; None when it failed in one of the ways that every caller has to expect."""
        number = next(self._numbers)
        tell(op=number, do=do, begin=time.monotonic_ns(), **facts)
        try:
            result = await action()
        except tuple(DEFINITE) as error:
            outcome = next(DEFINITE[kind] for kind in type(error).__mro__ if kind in DEFINITE)
            end = {} if outcome == "unknown" else {"end": time.monotonic_ns()}
            tell(op=number, outcome=outcome, **end)
            return None
        tell(op=number, outcome="ok", end=time.monotonic_ns(), **learned(result))
        return result
