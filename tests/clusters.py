"""A real cluster of three nats-servers of a test's own, on loopback; any of them can be killed."""

import json
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
        ports = [free_port() for _ in range(SIZE)]
        routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in ports)
        self.names = [f"member-{number}-{token}" for number in range(SIZE)]
        self.members = [
            Server(
                directory / name,
                name=name,
                extra=f"""
                cluster {{
                  name: "cluster-{token}"
                  listen: "127.0.0.1:{port}"
                  no_advertise: true
                  routes: [{routes}]
                }}
                """,
            )
            for name, port in zip(self.names, ports, strict=True)
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


async def step_down(connection: Connection, stream: str) -> None:
    """Let a stream's leader hand over to another."""
    await connection.api(f"STREAM.LEADER.STEPDOWN.{stream}")


def _is_ready(member: Server) -> bool:
    meta = (_page(member, "jsz") or {}).get("meta_cluster") or {}
    known = meta.get("cluster_size", 0) == SIZE and bool(meta.get("leader"))
    return known and (_page(member, "healthz") or {}).get("status") == "ok"


def _leader(member: Server, stream: str) -> str | None:
    page = _page(member, "jsz?streams=true&accounts=true") or {}
    details = [one for account in page["account_details"] for one in account["stream_detail"]]
    found: Iterator[dict[str, Any]] = (one for one in details if one["name"] == stream)
    return next((one["cluster"].get("leader") for one in found if "cluster" in one), None)


def _page(member: Server, path: str) -> dict[str, Any] | None:
    try:
        with urllib.request.urlopen(f"{member.monitor}/{path}", timeout=2) as answer:  # noqa: S310
            return json.load(answer)
    except urllib.error.HTTPError as error:
        error.close()
        return None
    except OSError:
        return None
