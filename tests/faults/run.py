"""One run: servers and workers as processes, a schedule of faults, and the proof afterwards."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import anyio
import anyio.to_thread
import msgspec

from blackboard import Blackboard, Memory
from blackboard.errors import UnavailableError
from blackboard.settings import Limits
from tests.clusters import step_down
from tests.faults.checker import WRITES, check
from tests.faults.crew import Crew
from tests.faults.history import END, History, Stored
from tests.faults.place import STREAM, Place, place
from tests.faults.schedule import Fault, Topology
from tests.settling import everything, settled

HANDLERS = ("pool--triple", "pool--merge")
SETTLE_S = 60.0
AGAIN_S = 0.2
RUN_S = 240.0
"""Beyond the time of the faults, nothing may take longer than this."""
HISTORY = 100_000
"""Every revision is kept, so that the board itself gives the order of all writes."""


class Report(msgspec.Struct, kw_only=True):
    """What came of a run.

    Attributes:
        findings: What is wrong; empty when all is well.
        faults: What was done, and to whom.
        skipped: Faults that this machine does not allow, and why.
        complaints: How often servers logged that their disk was full.
        outcomes: How many operations ended how, by kind.
        stored: Revisions on the board at the end.
        longest_pause_s: The longest time in which no write of any worker was acknowledged.
        seconds: How long it took in all.
    """

    findings: list[str]
    faults: list[str]
    skipped: dict[str, str]
    complaints: int
    outcomes: dict[str, int]
    stored: int
    longest_pause_s: float
    seconds: float


class Run:
    """One run.

    Args:
        directory: Everything goes there.
        topology: One server, or three.
        schedule: What goes wrong.
        seconds: How long the workers work; longer when a fault takes longer.
        seed: Decides what the workers do.
        namespaces: Whether network namespaces and small file systems may be made.
        say: Gets a line of text for each step.
        planted: Which bug a role has, for the checker to find.
    """

    def __init__(
        self,
        directory: Path,
        topology: Topology,
        schedule: Sequence[Fault],
        *,
        seconds: float,
        seed: int,
        namespaces: bool,
        say: Callable[[str], None],
        planted: dict[str, str] | None = None,
    ) -> None:
        self._directory = directory
        self._topology: Topology = topology
        self._schedule = schedule
        self._seconds = seconds
        self._seed = seed
        self._namespaces = namespaces
        self._say = say
        self._planted = planted or {}
        self._done: list[str] = []

    async def report(self) -> Report:
        """Do it all, and prove it."""
        began = time.monotonic()
        small = self._namespaces and any(one.what.startswith("full") for one in self._schedule)
        with anyio.fail_after(self._seconds + RUN_S):
            async with place(
                self._directory, self._topology, namespaces=self._namespaces, small_disks=small
            ) as servers:
                crew = Crew(self._directory, servers.url, self._seed, self._planted)
                try:
                    stored, diverging = await self._live(servers, crew)
                finally:
                    crew.kill()
        history = crew.history()
        findings = check(history, stored, replicated=servers.replicated)
        return Report(
            findings=[*crew.findings(), *diverging, *findings],
            faults=self._done,
            skipped=servers.skipped,
            complaints=servers.complaints,
            outcomes=dict(sorted(Counter(f"{op.do} {op.outcome}" for op in history.ops).items())),
            stored=len(stored),
            longest_pause_s=_longest_pause_s(history),
            seconds=round(time.monotonic() - began, 1),
        )

    async def _live(self, servers: Place, crew: Crew) -> tuple[list[Stored], list[str]]:
        limits = Limits(history=HISTORY, replicas=len(servers.members))
        async with Blackboard.open(servers.url, agent="judge", limits=limits) as board:
            async with anyio.create_task_group() as tending:
                tending.start_soon(crew.tend)
                await crew.start()
                await self._go_wrong(servers, crew)
                await anyio.to_thread.run_sync(servers.start)
                self._say("all is well again; the work ends")
                await crew.end_work()
                for handler in HANDLERS:
                    await settled(board, handler, SETTLE_S)
                self._say("the handlers have come to rest")
                await crew.let_readers_end()
                await board.put("load.end", {"v": "end"}, key="end")
                await crew.readers_ended()
                await crew.dismiss()
                tending.cancel_scope.cancel()
            return await _contents(board, servers)

    async def _go_wrong(self, servers: Place, crew: Crew) -> None:
        began = anyio.current_time()

        async def inflict(fault: Fault) -> None:
            await anyio.sleep_until(began + fault.at_s)
            whom = await (crew if fault.whom else servers).inflict(fault)
            self._done.append(f"{fault} ({whom})")
            self._say(f"  done {self._done[-1]}")

        async def serve_in_turn() -> None:
            for fault in self._schedule:
                if not fault.whom:
                    await inflict(fault)

        async with anyio.create_task_group() as group:
            group.start_soon(serve_in_turn)
            for fault in self._schedule:
                if fault.whom:
                    group.start_soon(inflict, fault)
            group.start_soon(anyio.sleep, self._seconds)


async def _contents(board: Blackboard, servers: Place) -> tuple[list[Stored], list[str]]:
    """All revisions; and where the servers differ in them, whoever of them leads."""
    stored = await _replayed(board)
    wrong: list[str] = []
    if servers.replicated:
        for number in range(len(servers.members)):
            await step_down(board.log.connection, STREAM)
            await anyio.to_thread.run_sync(servers.leader, STREAM)
            again = await _replayed(board)
            if again != stored:
                wrong.append(f"replay {number} differs: {len(again)} revisions, not {len(stored)}")
    return stored, wrong


async def _replayed(board: Blackboard) -> list[Stored]:
    while True:
        try:
            return [_stored(one) for one in await everything(board, ">") if str(one.ref) != END]
        except UnavailableError:
            await anyio.sleep(AGAIN_S)


def _stored(memory: Memory) -> Stored:
    return Stored(
        revision=memory.revision,
        ref=str(memory.ref.unpinned),
        topic=memory.topic,
        content=memory.content,
        session=memory.session,
    )


def _longest_pause_s(history: History) -> float:
    ends = sorted(op.end for op in history.ops if op.do in WRITES and op.outcome == "ok")
    pauses = [after - before for before, after in pairwise(ends)]
    return round(max(pauses, default=0) / 1e9, 2)
