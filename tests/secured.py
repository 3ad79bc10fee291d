"""A real server under an access policy: the compiled accounts, the credentials, and connections."""

import os
import signal
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nats
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from blackboard.access import Policy
from blackboard.access.broker import configuration
from blackboard.access.identity import PREFIX, Identity, read_subject
from blackboard.access.keys import OTHERS, Keyring, Keys
from tests.servers import Server
from tests.waiting import wait_until

STORED_S = 20
"""A broker that reads a thousand agents answers late on a busy machine, and always."""


class Secured:
    """A server that knows the agents of a policy.

    Args:
        directory: Holds the server and the credentials.
        start: Starts a server in a folder of that directory, with options of `Server`.
        policy: The text of the policy.
    """

    def __init__(self, directory: Path, start: Callable[..., Server], policy: str) -> None:
        self._accounts = directory / "accounts.conf"
        self.keyring = Keyring(directory / "credentials")
        self.keys = self._compile(policy)
        self.server = start(extra=f"include '../{self._accounts.name}'")

    @property
    def url(self) -> str:
        return self.server.url

    async def apply(self, policy: str) -> None:
        """Put another policy in force, and wait until it is."""
        before = self.server.log.read_text().count("Reloaded server configuration")
        self.keys = self._compile(policy)
        os.kill(self.server.pid, signal.SIGHUP)
        await wait_until(
            lambda: self.server.log.read_text().count("Reloaded server configuration") > before,
            "the broker has taken the policy",
        )

    def identity(self, agent: str, board: str = "main") -> Identity:
        path = self.keyring.path(agent, None if agent in OTHERS else board)
        return Identity.read(path, board, agent)

    @asynccontextmanager
    async def client(
        self, agent: str, board: str = "main", **options: Any
    ) -> AsyncGenerator["Raw"]:
        """A raw client with somebody's credential, for what the library would not do."""
        identity = self.identity(agent, board)
        raw = Raw()
        client = await nats.connect(  # pyright: ignore[reportUnknownMemberType]
            self.url,
            nkeys_seed_str=identity.seed,
            inbox_prefix=identity.inbox,
            error_cb=raw.failed,
            disconnected_cb=raw.lost,
            **options,
        )
        raw.client = client
        try:
            yield raw
        finally:
            await client.close()

    def _compile(self, text: str) -> Keys:
        policy = Policy.parse(text)
        keys = self.keyring.ensure(policy.agents())
        self._accounts.write_text(configuration(policy, keys))
        return keys


class Raw:
    """A raw client, and what the broker told it."""

    client: Client

    def __init__(self) -> None:
        self.denied: list[str] = []
        self.losses = 0

    async def failed(self, error: Exception) -> None:
        self.denied.append(str(error))

    async def lost(self) -> None:
        self.losses += 1

    async def ask(
        self, subject: str, body: bytes = b"", headers: Any = None, *, limit_s: float = 2
    ) -> Msg | None:
        """The answer to a request; None when the broker refused it, or nobody serves it."""
        denied = len(self.denied)
        inbox = self.client.new_inbox()
        answers = await self.client.subscribe(inbox)  # pyright: ignore[reportUnknownMemberType]
        await self.client.publish(subject, body, reply=inbox, headers=headers)
        await self.settle()
        if len(self.denied) > denied:
            return None
        try:
            answer = await answers.next_msg(timeout=limit_s)
        except nats.errors.TimeoutError:
            return None  # the stream of reads listens in, so nobody is told that nobody answers
        finally:
            await answers.unsubscribe()
        status = (answer.headers or {}).get("Status")
        return None if status == "503" else answer

    async def settle(self) -> None:
        """Wait until the broker has looked at all that was sent, and said what it refuses."""
        for _ in range(2):  # the client sends its ping ahead of what it still has to send
            await self.client.flush()

    async def reads(self, agent: str, subject: str, board: str = "main") -> bytes | None:
        """What a direct get in the name of an agent gives; None for nothing."""
        answer = await self.ask(read_subject(board, agent, f"MEM_{board}", subject))
        if answer is None or (answer.headers or {}).get("Status") == "404":
            return None
        return answer.data

    async def stores(self, subject: str, body: bytes = b"{}", headers: Any = None) -> bool:
        """Whether a stream stored what was published."""
        answer = await self.ask(f"{PREFIX}{subject}", body, headers, limit_s=STORED_S)
        return answer is not None and b'"seq"' in answer.data
