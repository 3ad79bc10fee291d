"""A real cluster of three nats-servers of a test's own, on loopback; any of them can be killed."""

import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path

import msgspec

from blackboard.jetstream import Connection
from tests.servers import Server, free_port

SIZE = 3
READY_S = 20.0
PAUSE_S = 0.02


class Cluster:
    """Three servers that hold every stream of three replicas between them.

    Attributes:
        members: The servers; each has `url`, `kill()`, `stop()` and `start()` of its own.

    Args:
        directory: Holds a directory for each.
    """

    def __init__(self, directory: Path) -> None:
        token = uuid.uuid4().hex[:8]
        self.names = [f"member-{number}-{token}" for number in range(SIZE)]
        self.members = self._lay(directory, f"cluster-{token}")

    def _lay(self, directory: Path, name: str) -> list[Server]:
        ports = [free_port() for _ in range(SIZE)]
        routes = [f"nats://127.0.0.1:{port}" for port in ports]
        return [
            Server(
                directory / member,
                name=member,
                extra=cluster_block(name, f"127.0.0.1:{port}", routes),
            )
            for member, port in zip(self.names, ports, strict=True)
        ]

    @property
    def url(self) -> str:
        """The addresses of all, separated by commas."""
        return ",".join(member.url for member in self.members)

    def start(self) -> None:
        """Start those that do not run, and wait until all agree on who leads."""
        for member in self.members:
            if not member.running:
                member.start()
        self.wait_ready()

    def kill(self) -> None:
        """End all of them at once."""
        for member in self.members:
            member.kill()

    def wait_ready(self) -> None:
        """Wait until the running servers know a leader and are in step with it."""
        deadline = time.monotonic() + READY_S
        while not all(_is_ready(member) for member in self.members if member.running):
            assert time.monotonic() < deadline, "the cluster found no leader in time"
            time.sleep(PAUSE_S)

    def member(self, name: str) -> Server:
        """The server of that name."""
        return self.members[self.names.index(name)]

    def leader(self, stream: str) -> Server:
        """The server that leads a stream now; waits while there is none."""
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline:
            for name, member in zip(self.names, self.members, strict=True):
                # Only its own word counts: the others may not have noticed that it is gone.
                if member.running and _leader(member, stream) == name:
                    return member
            time.sleep(PAUSE_S)
        raise AssertionError(f"nobody leads {stream}")

    def followers(self, stream: str) -> list[Server]:
        """The running servers that do not lead a stream."""
        leader = self.leader(stream)
        return [member for member in self.members if member.running and member is not leader]


def cluster_block(name: str, listen: str, routes: list[str], more: str = "") -> str:
    """The part of a server's configuration that makes it a member."""
    return f"""
        cluster {{
          name: "{name}"
          listen: "{listen}"
          no_advertise: true
          routes: [{", ".join(f'"{route}"' for route in routes)}]
          {more}
        }}
    """


async def step_down(connection: Connection, stream: str) -> None:
    """Let a stream's leader hand over to another."""
    await connection.api(f"STREAM.LEADER.STEPDOWN.{stream}")


class _Meta(msgspec.Struct):
    leader: str = ""
    cluster_size: int = 0


class _Stream(msgspec.Struct):
    name: str
    cluster: _Meta = msgspec.field(default_factory=_Meta)


class _Account(msgspec.Struct):
    stream_detail: list[_Stream] = []


class _Jsz(msgspec.Struct):
    meta_cluster: _Meta = msgspec.field(default_factory=_Meta)
    account_details: list[_Account] = []


def _is_ready(member: Server) -> bool:
    meta = _jsz(member).meta_cluster
    return meta.cluster_size == SIZE and meta.leader != "" and _page(member, "healthz") is not None


def _leader(member: Server, stream: str) -> str:
    """Who leads a stream as one server sees it; empty when nobody does."""
    accounts = _jsz(member).account_details
    streams = [one for account in accounts for one in account.stream_detail if one.name == stream]
    return streams[0].cluster.leader if streams else ""


def _jsz(member: Server) -> _Jsz:
    page = _page(member, "jsz?streams=true&accounts=true")
    return _Jsz() if page is None else msgspec.json.decode(page, type=_Jsz)


def _page(member: Server, path: str) -> bytes | None:
    """A monitoring page; None when the server is away, or says that it is not healthy."""
    try:
        with urllib.request.urlopen(f"{member.monitor}/{path}", timeout=2) as answer:  # noqa: S310 - http
            return answer.read()
    except urllib.error.HTTPError as error:
        error.close()
        return None
    except OSError:
        return None
