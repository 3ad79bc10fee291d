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
        self._answer_to: bytes | None = None
        self._request: bytes | None = None
        self._deaf = self._mute = False
        self.lost = anyio.Event()
        """What was looked for came by, and what follows is lost."""
        self.url = ""

    def lose_answer(self, to: bytes) -> None:
        """Deliver the request that contains `to`; nothing of what the broker says from then on."""
        self._answer_to, self.lost = to, anyio.Event()

    def lose_request(self, containing: bytes) -> None:
        """Deliver neither that request nor anything that the client sends after it."""
        self._request, self.lost = containing, anyio.Event()

    async def cut(self) -> None:
        """Break the connection; the next one works."""
        self._answer_to = self._request = None
        self._deaf = self._mute = False
        while self._open:
            for stream in self._open.pop():
                await anyio.aclose_forcefully(stream)

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
                if self._request is not None and self._request in data:
                    self._deaf = True
                    self.lost.set()
                if self._answer_to is not None and self._answer_to in data:
                    self._mute = True
                    self.lost.set()
                if not self._deaf:
                    await broker.send(data)
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
