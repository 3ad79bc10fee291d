"""The processes of a run that are no servers: started, killed, stopped, and started again."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import anyio

from tests.children import Child
from tests.faults.history import History
from tests.faults.schedule import Fault
from tests.replicas import ROOT, Replica
from tests.waiting import wait_until

PROGRAMS = "tests.faults.programs"
POOL = ROOT / "tests" / "faults" / "programs" / "pool.py"
STEWARD = ROOT / "blackboard" / "steward" / "__main__.py"
SIZES = {"pool": 2, "writer": 2, "caller": 2, "reader": 2, "steward": 1}
STOPPING = ("writer", "caller")
"""Those that go on until they are told to end."""
READY_S = 60.0
END_S = 60.0
TEND_S = 0.1


class Place:
    """One place in the crew: a process, and after its death the next.

    Attributes:
        role: What it does there.
        name: Of the place; the processes are numbered from it.
        findings: Those that ended by themselves, and what they said.
    """

    def __init__(self, role: str, number: int, start: Callable[[str], Child | Replica]) -> None:
        self.role = role
        self.name = f"{role}{number}"
        self.findings: list[str] = []
        self.processes: list[Child | Replica] = []
        self.away = False
        self._start = start

    @property
    def process(self) -> Child | Replica:
        return self.processes[-1]

    def start(self) -> None:
        self.processes.append(self._start(f"{self.name}-{len(self.processes)}"))
        self.away = False

    @property
    def ready(self) -> bool:
        """Whether it is at work."""
        process = self.process
        if isinstance(process, Child):
            return any("ready" in line for line in process.said())
        if self.role == "steward":
            return True  # it waits for the broker by itself, and does not end without one
        return any(line["event"] == "agent.running" for line in process.events())

    def tend(self) -> None:
        """Start it again when it ended by itself: in good order only before it began."""
        if self.away or self.process.running:
            return
        if self.ready:
            self.findings.append(f"{self.name} ended by itself: {self.last_words()}")
        self.start()

    def kill(self) -> None:
        self.away = True
        self.process.kill()

    def last_words(self) -> str:
        process = self.process
        return (process.complaints() if isinstance(process, Child) else process.said())[-2000:]

    @property
    def holds(self) -> bool:
        """Whether it is making a piece of work now, and so holds its claim."""
        if not isinstance(self.process, Child):
            return False
        said = self.process.said()
        begun = {line["begins"] for line in said if "begins" in line}
        return bool(begun - {line["makes"] for line in said if "makes" in line})


class Crew:
    """All of them.

    Args:
        directory: Their output goes there.
        url: Of the servers.
        seed: Of the run.
        planted: Which bug a role has.
    """

    def __init__(self, directory: Path, url: str, seed: int, planted: dict[str, str]) -> None:
        self._directory = directory
        self._url = url
        self._seed = seed
        self._planted = planted
        self._began = time.monotonic()
        self.places = [
            Place(role, number, self._starter(role, number))
            for role, size in SIZES.items()
            for number in range(size)
        ]

    def _starter(self, role: str, number: int) -> Callable[[str], Child | Replica]:
        def start_program(name: str) -> Child:
            options = {
                "url": self._url,
                "agent": f"{role}-{number}",
                "name": name,
                "seed": f"{self._seed} {name}",
                "began": self._began,
                "planted": self._planted.get(role, ""),
            }
            return Child(f"{PROGRAMS}.{role}", self._directory, name, options)

        def start_agent(name: str) -> Replica:
            program = POOL if role == "pool" else STEWARD
            return Replica(program, self._url, self._directory / f"{name}.log")

        return start_agent if role in ("pool", "steward") else start_program

    def of(self, *roles: str) -> list[Place]:
        return [place for place in self.places if place.role in roles]

    async def start(self) -> None:
        """Start all, the pool first, so that its handlers are there before their inputs."""
        for roles in (("pool",), ("steward", "reader"), STOPPING):
            for place in self.of(*roles):
                place.start()
            await self._all_ready(roles)

    async def _all_ready(self, roles: tuple[str, ...]) -> None:
        places = self.of(*roles)
        await wait_until(
            lambda: all(place.ready for place in places), f"{roles} are at work", READY_S
        )

    async def tend(self) -> None:
        """Start again what ended by itself, for ever."""
        while True:
            for place in self.places:
                if place.processes:
                    place.tend()
            await anyio.sleep(TEND_S)

    async def inflict(self, fault: Fault) -> str:
        """Do one thing to one of them, for as long as it says; tells to whom."""
        places = self.of("caller" if fault.whom == "holder" else fault.whom)
        place = places[fault.number % len(places)]
        if fault.whom == "holder":
            place = next((one for one in places if one.holds), place)
        if place.away or not place.process.running:
            return "nobody"
        process = place.process
        if fault.what == "kill":
            place.kill()
            await anyio.sleep(fault.for_s)
            place.start()
        else:
            _signal(process, signal.SIGSTOP)
            await anyio.sleep(fault.for_s)
            _signal(process, signal.SIGCONT)
        return place.name

    async def end_work(self) -> None:
        """Let the writers and callers end in good order."""
        await self._terminate(*STOPPING)

    async def let_readers_end(self) -> None:
        """Wait until all readers follow: the last memory ends them."""
        await self._all_ready(("reader",))
        for place in self.of("reader"):
            place.away = True

    async def readers_ended(self) -> None:
        """Wait until the readers have seen the last memory."""
        await self._ended("reader")

    async def dismiss(self) -> None:
        """Let the services end in good order."""
        await self._terminate("pool", "steward")

    async def _terminate(self, *roles: str) -> None:
        await self._all_ready(roles)
        for place in self.of(*roles):
            place.away = True
            place.process.terminate()
        await self._ended(*roles)

    async def _ended(self, *roles: str) -> None:
        for place in self.of(*roles):
            try:
                await wait_until(
                    lambda place=place: not place.process.running, f"{place.name} has ended", END_S
                )
            except AssertionError as error:
                place.findings.append(f"{error}; it said {place.last_words()}")
                continue
            if place.process.code_now != 0:
                place.findings.append(f"{place.name} ended badly: {place.last_words()}")

    def kill(self) -> None:
        """End whatever still runs."""
        for place in self.places:
            for process in place.processes:
                process.kill()

    def findings(self) -> list[str]:
        return [finding for place in self.places for finding in place.findings]

    def history(self) -> History:
        """What all of them wrote down, the dead included."""
        history = History()
        for place in self.places:
            for process in place.processes:
                if isinstance(process, Child):
                    history.take(process.name, process.said())
        return history


def _signal(process: Child | Replica, number: signal.Signals) -> None:
    if process.running:
        os.kill(process.pid, number)
