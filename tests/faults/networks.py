"""The wires between servers and to their clients, and how to cut them.

`Namespaces` gives every server a network of its own, with a cable to each other server and one to
the clients; it needs rights that only the inside of a namespace gives (`tests.faults.__main__`
makes one). Where that is not allowed, `Proxies` passes everything through TCP proxies on loopback.
Both end with the process that made them.
"""

import subprocess
from collections.abc import AsyncGenerator, Iterable
from contextlib import ExitStack, asynccontextmanager
from itertools import combinations, permutations
from pathlib import Path
from typing import Protocol

import anyio
from anyio.abc import ByteReceiveStream, ByteSendStream, SocketStream

from tests.clusters import cluster_block
from tests.servers import Server, free_port

CLIENTS = -1
"""The end of a wire that is no server."""
ROUTES_PORT = 6222
Wire = tuple[int, int]


class Network(Protocol):
    """Wires between `size` servers, and to their clients."""

    def server(self, number: int, directory: Path, name: str, cluster: str) -> Server:
        """A server that is wired up; `cluster` names the cluster, or is empty for one alone."""
        ...

    def url(self, server: Server, number: int) -> str:
        """Where clients find a server."""
        ...

    async def cut(self, wires: Iterable[Wire]) -> None:
        """Let nothing through from the first to the second of each pair, without a word."""
        ...

    async def heal(self) -> None:
        """Let everything through again."""
        ...


class Namespaces:
    """Network namespaces, joined by pairs of virtual devices; in a namespace of the run's own."""

    def __init__(self, size: int, stack: ExitStack) -> None:
        self._size = size
        self._cut: list[Wire] = []
        self._holders = [stack.enter_context(_holder()) for _ in range(size)]
        _ip("link", "set", "lo", "up")
        for number in range(size):
            self._join((CLIENTS, number))
        for pair in combinations(range(size), 2):
            self._join(pair)

    def server(self, number: int, directory: Path, name: str, cluster: str) -> Server:
        others = [other for other in range(self._size) if other != number]
        routes = [f"nats://{_address((other, number))}:{ROUTES_PORT}" for other in others]
        return Server(
            directory,
            name=name,
            host=_address((number, CLIENTS)),
            within=self._inside(number),
            extra=cluster_block(cluster, f"0.0.0.0:{ROUTES_PORT}", routes) if cluster else "",
        )

    def url(self, server: Server, number: int) -> str:
        del number
        return server.url

    async def cut(self, wires: Iterable[Wire]) -> None:
        for wire in wires:
            self._route("add", wire)
            self._cut.append(wire)

    async def heal(self) -> None:
        while self._cut:
            self._route("del", self._cut.pop())

    def _route(self, verb: str, wire: Wire) -> None:
        # More specific than the wire's own route: what goes there is dropped, and nobody is told.
        start, end = wire
        target = f"{_address((end, start))}/32"
        _run(*self._inside(start), "ip", "route", verb, "blackhole", target)

    def _inside(self, number: int) -> tuple[str, ...]:
        if number == CLIENTS:
            return ()
        return ("nsenter", "-t", str(self._holders[number].pid), "-n")

    def _join(self, pair: Wire) -> None:
        ends = (pair, (pair[1], pair[0]))
        _ip("link", "add", _device(ends[0]), "type", "veth", "peer", "name", _device(ends[1]))
        for end in ends:
            if end[0] != CLIENTS:
                _ip("link", "set", _device(end), "netns", str(self._holders[end[0]].pid))
            inside = self._inside(end[0])
            _run(*inside, "ip", "address", "add", f"{_address(end)}/30", "dev", _device(end))
            _run(*inside, "ip", "link", "set", _device(end), "up")


class Proxies:
    """A proxy on loopback for each direction of each pair."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._ports = [free_port() for _ in range(size)]
        self._nobody = free_port()
        self._links = {
            wire: _Link() for wire in permutations([CLIENTS, *range(size)], 2) if wire[1] != CLIENTS
        }

    def server(self, number: int, directory: Path, name: str, cluster: str) -> Server:
        routes = [
            f"nats://127.0.0.1:{self._links[number, other].port}"
            for other in range(self._size)
            if other != number
        ]
        listen = f"127.0.0.1:{self._ports[number]}"
        # What servers tell each other of third ones would lead past the proxies: to nobody, then.
        more = f'advertise: "127.0.0.1:{self._nobody}"'
        return Server(
            directory,
            name=name,
            extra=cluster_block(cluster, listen, routes, more) if cluster else "",
        )

    def url(self, server: Server, number: int) -> str:
        link = self._links[CLIENTS, number]
        link.target = int(server.url.rpartition(":")[2])
        return f"nats://127.0.0.1:{link.port}"

    async def cut(self, wires: Iterable[Wire]) -> None:
        for start, end in wires:
            # Each connection goes both ways, whoever opened it.
            for link, forward in (
                (self._links.get((start, end)), True),
                (self._links.get((end, start)), False),
            ):
                if link is not None:
                    link.stop(forward=forward)

    async def heal(self) -> None:
        for link in self._links.values():
            link.go_on()

    @asynccontextmanager
    async def serving(self) -> AsyncGenerator[None]:
        """Pass everything on, in the background."""
        async with anyio.create_task_group() as group:
            for (_, end), link in self._links.items():
                link.target = self._ports[end]
                await group.start(link.serve)
            yield
            group.cancel_scope.cancel()


class _Link:
    """A proxy that can stop passing on, in each direction, and go on where it stopped."""

    def __init__(self) -> None:
        self.port = free_port()
        self.target = 0
        self._open = {True: anyio.Event(), False: anyio.Event()}
        self.go_on()

    def stop(self, *, forward: bool) -> None:
        self._open[forward] = anyio.Event()

    def go_on(self) -> None:
        for event in self._open.values():
            event.set()

    async def serve(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=self.port)
        async with listener:
            task_status.started()
            await listener.serve(self._pass_on)

    async def _pass_on(self, client: SocketStream) -> None:
        await self._open[True].wait()
        try:
            server = await anyio.connect_tcp("127.0.0.1", self.target)
        except OSError:
            await client.aclose()
            return
        async with client, server, anyio.create_task_group() as group:
            group.start_soon(self._copy, client, server, True)  # noqa: FBT003 - start_soon takes no names
            await self._copy(server, client, forward=False)
            group.cancel_scope.cancel()

    async def _copy(
        self,
        source: ByteReceiveStream,
        target: ByteSendStream,
        forward: bool,  # noqa: FBT001
    ) -> None:
        try:
            async for data in source:
                await self._open[forward].wait()
                await target.send(data)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass
        await target.aclose()


@asynccontextmanager
async def network(size: int, *, namespaces: bool) -> AsyncGenerator[Network]:
    """Wire up so many servers."""
    if namespaces:
        with ExitStack() as stack:
            yield Namespaces(size, stack)
    else:
        proxies = Proxies(size)
        async with proxies.serving():
            yield proxies


def _holder() -> subprocess.Popen[bytes]:
    """A process in a network of its own, which lasts as long as our end of its input is open."""
    holder = subprocess.Popen(
        ["unshare", "-n", "sh", "-c", "ip link set lo up && echo ready && read _"],  # noqa: S607
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"ready\n", "no network namespace"
    return holder


def _address(end: Wire) -> str:
    """The address of the first on the wire to the second."""
    low, high = sorted(end)
    return f"10.{low + 2}.{high}.{1 if end[0] == low else 2}"


def _device(end: Wire) -> str:
    return f"to-{end[0] + 1}-{end[1] + 1}"


def _ip(*arguments: str) -> None:
    _run("ip", *arguments)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
