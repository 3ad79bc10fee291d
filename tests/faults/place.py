"""The servers of a run, one or three, and what can be done to them."""

import os
import signal
import subprocess
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from itertools import permutations
from pathlib import Path

import anyio
import anyio.to_thread

from tests.clusters import Cluster
from tests.faults.networks import CLIENTS, Network, Wire, network
from tests.faults.schedule import Fault, Topology
from tests.servers import Server

STREAM = "MEM_main"
SLOW_US = 40_000
"""How much longer every fsync takes on a slow disk."""
STORE = "jetstream"
"""Where a server keeps its streams, beside its log."""
DISK_BYTES = 48 << 20
NO_SPACE = "no space left on device"


class Place(Cluster):
    """Servers on a network that can be cut.

    Attributes:
        members: The servers.
        skipped: Faults that this machine does not allow, and why.
        complaints: How often servers logged that their disk was full.

    Args:
        directory: Holds a directory for each.
        wires: What connects them.
        topology: One server, or three.
        small_disks: Whether each has a small file system of its own, which can be filled.
    """

    def __init__(
        self, directory: Path, wires: Network, topology: Topology, *, small_disks: bool
    ) -> None:
        self._wires = wires
        self._size = 1 if topology == "one" else 3
        self._small = small_disks
        self.skipped: dict[str, str] = {}
        self.complaints = 0
        super().__init__(directory)

    def _lay(self, directory: Path, name: str) -> list[Server]:
        self.names = self.names[: self._size]
        members: list[Server] = []
        for number, member in enumerate(self.names):
            place = directory / member
            if self._small:
                _mount(place / STORE)
            cluster = name if self._size > 1 else ""
            members.append(self._wires.server(number, place, member, cluster))
        return members

    @property
    def replicated(self) -> bool:
        return self._size > 1

    @property
    def url(self) -> str:
        return ",".join(self._wires.url(one, number) for number, one in enumerate(self.members))

    def wait_ready(self) -> None:
        if self.replicated:
            super().wait_ready()

    def leader(self, stream: str) -> Server:
        return super().leader(stream) if self.replicated else self.members[0]

    async def inflict(self, fault: Fault) -> str:
        """Do one thing to the servers, for as long as it says, and undo it; tells to whom."""
        what, _, whom = fault.what.partition(" ")
        victims = await anyio.to_thread.run_sync(self._victims, whom, fault.number)
        acts: dict[str, Callable[[list[Server], float], Awaitable[None]]] = {
            "kill": self._kill,
            "stop": self._stop,
            "cut": partial(self._cut, whom),
            "slow": self._slow,
            "full": self._fill,
        }
        await acts[what](victims, fault.for_s)
        return ", ".join(str(self.members.index(one)) for one in victims)

    def _victims(self, whom: str, number: int) -> list[Server]:
        if not self.replicated or whom == "all":
            return self.members
        leader = self.leader(STREAM)
        followers = [one for one in self.members if one is not leader]
        return [followers[number]] if whom == "follower" else [leader]

    async def _kill(self, victims: list[Server], for_s: float) -> None:
        for victim in victims:
            victim.kill()
        await anyio.sleep(for_s)
        async with anyio.create_task_group() as group:
            for victim in victims:
                group.start_soon(anyio.to_thread.run_sync, victim.start)

    async def _stop(self, victims: list[Server], for_s: float) -> None:
        for victim in victims:
            os.kill(victim.pid, signal.SIGSTOP)
        await anyio.sleep(for_s)
        for victim in victims:
            os.kill(victim.pid, signal.SIGCONT)

    async def _cut(self, whom: str, victims: list[Server], for_s: float) -> None:
        (victim,) = (self.members.index(one) for one in victims)
        others = [number for number in range(self._size) if number != victim]
        wires: list[Wire]
        if whom == "pair":
            wires = [(victim, others[0]), (others[0], victim)]
        elif whom == "one way":
            wires = [(victim, other) for other in others]
        elif whom in ("leader", "follower"):
            wires = [pair for pair in permutations(range(self._size), 2) if victim in pair]
        else:
            wires = [(CLIENTS, victim), (victim, CLIENTS)]
        await self._wires.cut(wires)
        await anyio.sleep(for_s)
        await self._wires.heal()

    async def _slow(self, victims: list[Server], for_s: float) -> None:
        (victim,) = victims
        reason = cannot_trace()
        if reason:
            self.skipped["slow"] = reason
            return
        tracer = _trace(victim.pid)
        try:
            await anyio.sleep(for_s)
        finally:
            await anyio.to_thread.run_sync(_let_go, tracer)

    async def _fill(self, victims: list[Server], for_s: float) -> None:
        """Fill the disk; then make room and start the server again, as its operator has to."""
        (victim,) = victims
        if not self._small:
            self.skipped["full"] = "a small file system cannot be mounted here"
            return
        ballast = victim.directory / STORE / "ballast"
        await anyio.to_thread.run_sync(_fill_up, ballast)
        await anyio.sleep(for_s)
        self.complaints += victim.log.read_text().count(NO_SPACE)
        await anyio.to_thread.run_sync(victim.kill)
        ballast.unlink()
        await anyio.to_thread.run_sync(victim.start)


def _mount(directory: Path) -> None:
    directory.mkdir(parents=True)
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "none", str(directory)],  # noqa: S607
        check=True,
    )


def _fill_up(ballast: Path) -> None:
    block = b"\0" * 65536
    with ballast.open("wb", buffering=0) as file:
        while block:
            try:
                file.write(block)
            except OSError:
                block = block[: len(block) // 2]


def cannot_trace() -> str:
    """Why system calls cannot be made slower here; empty when they can."""
    try:
        probe = subprocess.run(
            ["strace", "-o", "/dev/null", "-e", "inject=fsync:delay_exit=1", "true"],  # noqa: S607
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError as error:
        return f"no strace: {error.strerror}"
    return probe.stderr.strip() if probe.returncode else ""


def _trace(pid: int) -> subprocess.Popen[bytes]:
    inject = f"inject=fsync,fdatasync:delay_exit={SLOW_US}"
    trace = ["-e", "trace=fsync,fdatasync", "-e", inject]
    return subprocess.Popen(
        ["strace", "-qq", "-f", "-o", "/dev/null", *trace, "-p", str(pid)],  # noqa: S607
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _let_go(tracer: subprocess.Popen[bytes]) -> None:
    tracer.terminate()
    try:
        tracer.wait(timeout=5)
    except subprocess.TimeoutExpired:
        tracer.kill()  # the kernel lets go of what it traced
        tracer.wait()


@asynccontextmanager
async def place(
    directory: Path, topology: Topology, *, namespaces: bool, small_disks: bool
) -> AsyncGenerator[Place]:
    """Start the servers of a run; they end on leaving."""
    async with network(1 if topology == "one" else 3, namespaces=namespaces) as wires:
        servers = Place(directory, wires, topology, small_disks=small_disks)
        try:
            await anyio.to_thread.run_sync(servers.start)
            yield servers
        finally:
            servers.kill()
