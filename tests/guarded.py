"""A real broker with credentials and a steward: what an attacker meets, and an honest agent uses.

Everything an agent may do is compiled from its rights, as `blackboard access apply` does it; here
for the rights that a test names.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error

from blackboard import Blackboard
from blackboard.access import Policy
from blackboard.access.broker import configuration
from blackboard.access.identity import PREFIX, Identity
from blackboard.access.keys import Keyring
from blackboard.access.rights import Grant, Quota, Rights
from blackboard.cli.policies import enrol_at
from blackboard.jetstream import Connection
from blackboard.session import open_session
from blackboard.settings import Limits, Settings
from tests.servers import Server
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[1]
START_S = 20.0


def agent(
    name: str,
    *,
    read: Sequence[Grant] = (),
    write: Sequence[Grant] = (),
    handlers: Sequence[str] = (),
    board: str = "main",
    quota: Quota | None = None,
) -> Rights:
    """Rights of one agent, for `Guarded`."""
    return Rights(
        board=board,
        agent=name,
        read=tuple(read),
        write=tuple(write),
        handlers=tuple(handlers),
        quota=quota or Quota(),
    )


class Guarded(Server):
    """A server with credentials, its boards, and a steward process.

    Args:
        directory: For everything.
        rights: The agents, each with what it may do.
        mappings: More account mappings, for a broker that is set up badly.
        boards: Made at the start; None takes those of the agents.
        credentials: Where they lie, for servers that share them.
        served: Labels that are read through the steward only.
        options: As for `Server`.
    """

    def __init__(
        self,
        directory: Path,
        rights: Sequence[Rights],
        *,
        mappings: dict[str, str] | None = None,
        boards: Sequence[str] | None = None,
        credentials: Path | None = None,
        served: Sequence[str] = (),
        **options: Any,
    ) -> None:
        super().__init__(directory, **options)
        self.credentials = credentials or directory / "credentials"
        self.address = ""
        self.boards = tuple(boards or sorted({one.board for one in rights}))
        self.rights = {(one.board, one.agent): one for one in rights}
        self.keyring = Keyring(self.credentials)
        self.mappings = mappings or {}
        self.served = served
        self.stewards: list[subprocess.Popen[bytes]] = []
        self.steward_log = directory / "steward.log"

    # The server

    @property
    def where(self) -> str:
        """The address that everybody uses; several, when it is one of a cluster."""
        return self.address or self.url

    def _config(self, ports: tuple[int, int], name: str) -> str:
        policy = self._policy()
        accounts = configuration(policy, self.keyring.ensure(policy.agents()))
        more = "".join(f"{json.dumps(a)}: {json.dumps(b)}\n" for a, b in self.mappings.items())
        return super()._config(ports, name) + accounts.replace("mappings {", f"mappings {{ {more}")

    def _policy(self) -> Policy:
        return Policy.parse(policy_of(self.rights.values(), self.served))

    def identity(self, name: str, board: str = "main") -> Identity:
        """The credential of an agent or service."""
        return Identity.find(self.credentials, board, name)

    def reload(self) -> None:
        """Have the running server read its configuration again."""
        config = self.directory / "nats-server.conf"
        config.write_text(self._config(self._known_ports(), json_name(config)))
        done = self.log.read_text().count("Reloaded server configuration")
        os.kill(self.pid, signal.SIGHUP)
        deadline = time.monotonic() + START_S
        while self.log.read_text().count("Reloaded server configuration") == done:
            assert time.monotonic() < deadline, self.log.read_text()[-2000:]
            time.sleep(0.005)

    # What an operator does

    @asynccontextmanager
    async def operator(self) -> AsyncGenerator[Connection]:
        async with Connection.open(self.where, identity=self.identity("cli")) as connection:
            yield connection

    async def lay(self) -> None:
        """Make the boards, and say who may do what; what an operator does after a change."""
        cli = self.keyring.path("cli")
        await enrol_at(self.where, cli, self._policy(), self.keyring)

    async def grant(self, rights: Rights) -> None:
        """Change what an agent may do: the broker first, then everybody who asks."""
        self.rights[rights.board, rights.agent] = rights
        self.reload()
        await self.lay()

    async def revoke(self, name: str, board: str = "main") -> None:
        """Take an agent out of the policy."""
        del self.rights[board, name]
        self.keyring.remove(name, board)
        self.reload()
        await self.lay()

    # The steward

    def start_steward(self) -> subprocess.Popen[bytes]:
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("BLACKBOARD")}
        with self.steward_log.open("ab") as log:
            steward = subprocess.Popen(
                [sys.executable, "-P", "-m", "blackboard.steward"],
                env={
                    **inherited,
                    "PYTHONPATH": path,
                    "BLACKBOARD_URL": self.where,
                    "BLACKBOARD_DATA": str(self.directory),
                    "BLACKBOARD_BROKER_LOG": str(self.log),
                    "BLACKBOARD_CREDENTIALS": str(self.credentials),
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.stewards.append(steward)
        return steward

    def end_stewards(self) -> None:
        for steward in self.stewards:
            steward.kill()
            steward.wait()
        self.stewards.clear()

    async def serving(self) -> None:
        """Wait until the steward answers on every board."""
        for board in self.boards:
            name = next(one.agent for one in self.rights.values() if one.board == board)
            async with self.raw(name, board) as raw:

                async def answers(raw: Raw = raw) -> bool:
                    answer = await raw.gate("STREAM.NAMES")
                    return answer is not None and answer.get("total") == 1

                await wait_until(answers, f"the steward serves {name}@{board}", START_S)

    # Those who use it

    @asynccontextmanager
    async def board(self, name: str, board: str = "main") -> AsyncGenerator[Blackboard]:
        """A board through the library, with the agent's own credential."""
        settings = Settings(url=self.where, credentials=self.credentials)
        async with open_session(settings, board, name, limits=Limits(), create=False) as session:
            yield Blackboard(session, session.desk(board, name))

    @asynccontextmanager
    async def raw(self, name: str, board: str = "main") -> AsyncGenerator["Raw"]:
        """A plain client with a stolen credential."""
        client = Raw(self.identity(name, board))
        await client.connect(self.where)
        try:
            yield client
        finally:
            await client.close()


class Raw:
    """A plain nats-py client that holds somebody's credential and keeps to no rule of ours.

    Attributes:
        client: The client.
        refused: Subjects that the broker did not let it publish or subscribe to, in lower case.
    """

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self.client = Client()
        self.refused: list[str] = []
        self._received: dict[str, list[Msg]] = {}

    @property
    def me(self) -> str:
        return self.identity.agent

    @property
    def home(self) -> str:
        return self.identity.board

    async def connect(self, url: str) -> None:
        async def failed(error: Exception) -> None:
            self.refused.append(str(error))

        await self.client.connect(
            url.split(","),
            nkeys_seed_str=self.identity.seed,
            inbox_prefix=self.identity.inbox,
            error_cb=failed,
            max_reconnect_attempts=3,
        )

    async def close(self) -> None:
        await self.client.close()

    async def flush(self) -> None:
        """Wait until the broker has dealt with everything that was sent."""
        for _ in range(2):  # the client sends its ping ahead of what it still has to send
            await self.client.flush(timeout=5)

    async def publish(
        self,
        subject: str,
        body: bytes = b"",
        *,
        reply: str = "",
        headers: dict[str, str] | None = None,
    ) -> bool:
        """Publish; whether the broker took it."""
        before = len(self.refused)
        await self.client.publish(subject, body, reply=reply, headers=headers)
        await self.flush()
        return len(self.refused) == before

    async def ask(
        self,
        subject: str,
        body: bytes | object = b"",
        *,
        timeout: float = 2,
        headers: dict[str, str] | None = None,
    ) -> Msg | None:
        """Request; None when the broker refuses it, nobody is there, or nobody answers."""
        inbox = self.client.new_inbox()
        subscription = await self.client.subscribe(inbox)  # pyright: ignore[reportUnknownMemberType]
        data = body if isinstance(body, bytes) else msgspec.json.encode(body)
        try:
            if not await self.publish(subject, data, reply=inbox, headers=headers):
                return None
            msg = await subscription.next_msg(timeout=timeout)
        except (Error, TimeoutError):
            return None
        finally:
            await subscription.unsubscribe()
        status = (msg.headers or {}).get("Status")
        return None if status == "503" else msg

    async def gate(self, verb: str, body: object = None) -> dict[str, Any] | None:
        """Ask the steward as an agent does; None without an answer."""
        request = {"verb": verb} if body is None else {"verb": verb, "body": body}
        msg = await self.ask(f"svc.{self.home}.api.{self.me}", request, timeout=6)
        if msg is None:
            return None
        code = (msg.headers or {}).get("Nats-Service-Error-Code")
        if code is not None:
            return {"code": int(code), "text": msg.data.decode()}
        return msgspec.json.decode(msg.data)

    async def get(self, subject: str, stream: str | None = None, body: bytes = b"") -> Msg | None:
        """A direct get where an agent may make one; None when it is refused or finds nothing."""
        stream = stream or f"MEM_{self.home}"
        msg = await self.ask(f"{PREFIX}rd.{self.home}.{self.me}.{stream}.{subject}", body)
        return None if msg is None or "Status" in (msg.headers or {}) else msg


def json_name(config: Path) -> str:
    """The server's name, from the configuration that it runs with."""
    for line in config.read_text().splitlines():
        if line.strip().startswith("server_name:"):
            return line.split(":", 1)[1].strip()
    raise AssertionError("no server name")


def policy_of(people: Iterable[Rights], served: Sequence[str] = ()) -> str:
    """The access policy that grants just these rights."""
    lines = [f"served = {json.dumps(served)}"] if served else []
    for one in people:
        name = f"{one.board}-{one.agent}"
        users = sorted({grant.user for grant in one.read if grant.user})
        lines.append(f"[roles.{name}]")
        for act, grants in (("read", one.read), ("write", one.write)):
            each = {(grant.topic, grant.access): None for grant in grants}
            if each:
                rights = ", ".join(
                    f'{{ topics = ["{topic}"], labels = ["{label}"] }}' for topic, label in each
                )
                lines.append(f"{act} = [{rights}]")
        lines.append(f"[boards.{one.board}.agents.{one.agent}]")
        lines.append(f'roles = ["{name}"]')
        lines += [f"handlers = {json.dumps(one.handlers)}"] if one.handlers else []
        lines += [f"users = {json.dumps(users)}"] if users else []
        limits = msgspec.to_builtins(one.quota)
        if limits:
            inside = ", ".join(f"{key} = {value}" for key, value in limits.items())
            lines.append(f"limits = {{ {inside} }}")
    return "\n".join(lines)
