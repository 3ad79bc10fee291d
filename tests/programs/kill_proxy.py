"""A wire between client and broker that loses a chosen request, or its answer, and then breaks."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import anyio
from anyio.abc import ByteReceiveStream, ByteSendStream, SocketAttribute, SocketStream


class Wire:
    """Passes everything on, until what the client sends contains what it was told to look for."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._open: list[tuple[SocketStream, SocketStream]] = []
        self._wanted: bytes | None = None
        self._then = ""
        self._deaf = self._mute = False
        self._go_on = anyio.Event()
        self.seen = anyio.Event()
        """What was looked for came by."""
        self.url = ""

    def look_for(self, request: bytes) -> None:
        """Only tell, by `seen`, when a request that contains this was passed on."""
        self._look_for(request, "pass")

    def lose_answer(self, request: bytes) -> None:
        """Deliver that request; nothing of what the broker says from then on."""
        self._look_for(request, "mute")

    def lose_request(self, request: bytes) -> None:
        """Deliver neither that request nor anything that the client sends after it."""
        self._look_for(request, "deaf")

    def hold_request(self, request: bytes) -> None:
        """Deliver that request, and what comes after it, only after `release`."""
        self._look_for(request, "hold")

    def release(self) -> None:
        """Deliver what was held."""
        self._go_on.set()

    async def cut(self) -> None:
        """Break the connection; the next one works."""
        self._wanted = None
        self._deaf = self._mute = False
        while self._open:
            for stream in self._open.pop():
                await anyio.aclose_forcefully(stream)

    def _look_for(self, request: bytes, then: str) -> None:
        self._wanted, self._then = request, then
        self.seen, self._go_on = anyio.Event(), anyio.Event()

    async def serve(self, client: SocketStream) -> None:
        async with await anyio.connect_tcp(*self._target) as broker, client:
            self._open.append((client, broker))
            async with anyio.create_task_group() as group:
                group.start_soon(self._upward, client, broker)
                await self._downward(broker, client)
                group.cancel_scope.cancel()

    async def _upward(self, client: ByteReceiveStream, broker: ByteSendStream) -> None:
        try:
            async for data in client:
                found = self._wanted is not None and self._wanted in data
                if found:
                    self._wanted = None
                    self._deaf = self._deaf or self._then == "deaf"
                    self._mute = self._mute or self._then == "mute"
                if found and self._then == "hold":
                    self.seen.set()
                    await self._go_on.wait()
                if not self._deaf:
                    await broker.send(data)
                if found:
                    self.seen.set()
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            return

    async def _downward(self, broker: ByteReceiveStream, client: ByteSendStream) -> None:
        try:
            async for data in broker:
                if not self._mute:
                    await client.send(data)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            return


@asynccontextmanager
async def open_wire(url: str) -> AsyncGenerator[Wire]:
    """Listen for clients of the broker at `url`."""
    broker = urlsplit(url)
    wire = Wire(broker.hostname or "", broker.port or 0)
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        port = listener.extra(SocketAttribute.local_port)  # noqa: S610 - no Django here
        wire.url = f"nats://127.0.0.1:{port}"
        async with anyio.create_task_group() as group:
            group.start_soon(listener.serve, wire.serve)
            yield wire
            group.cancel_scope.cancel()
