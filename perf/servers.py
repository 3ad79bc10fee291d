"""Throw-away servers on the loopback: a broker that syncs every message, and a Redis that does too.

    python perf/servers.py     installs redis-server where that needs nothing but apt and root

They get sessions of their own, so that Ctrl-C reaches the program first, which then ends them.
"""

import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from blackboard.local.broker import find_program

if TYPE_CHECKING:
    from redis.asyncio import Redis

START_S = 10.0
CONFIGURATION = """
listen: "127.0.0.1:-1"
http: "127.0.0.1:-1"
ports_file_dir: "."
max_connections: 20000
jetstream {
  store_dir: "."
  sync_interval: always
  max_file_store: 8TB
  max_memory_store: 1GB
  limits { default_max_consumers: 100000 }
}
"""


@dataclass(frozen=True, slots=True)
class Server:
    """A running broker."""

    url: str
    monitor: str
    pid: int


@contextmanager
def nats_server() -> Generator[Server]:
    """Start a broker in a folder of its own; it and its folder are gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="blackboard-perf-") as folder:
        home = Path(folder)
        (home / "nats.conf").write_text(CONFIGURATION)
        with _process([find_program(), "-c", "nats.conf", "-l", "log"], home) as process:
            ports = _ports(process, home)
            yield Server(
                ports["nats"][0].replace("tls://", "nats://"), ports["monitoring"][0], process.pid
            )


@contextmanager
def _process(words: list[str], home: Path) -> Generator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(  # noqa: S603 - our own words
        words,
        cwd=home,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _ports(process: subprocess.Popen[bytes], home: Path) -> dict[str, list[str]]:
    deadline = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline:
        for path in home.glob("*.ports"):
            text = path.read_text()
            if text.endswith("}"):
                return json.loads(text)
        time.sleep(0.005)
    raise RuntimeError("nats-server does not start: " + (home / "log").read_text()[-1000:])


def why_no_redis() -> str | None:
    """Why Redis cannot be measured here; None when it can."""
    if shutil.which("redis-server") is None:
        return "redis-server is not installed (`make bench` does that as root, where apt is)"
    if importlib.util.find_spec("redis") is None:
        return "the Python package redis is not installed"
    return None


@contextmanager
def redis_server() -> "Generator[Redis | None]":
    """Start a Redis that syncs every write, and connect; None, with the reason printed, if not."""
    reason = why_no_redis()
    if reason is not None:
        print(f"Redis is left out: {reason}")
        yield None
        return
    from redis.asyncio import Redis  # noqa: PLC0415 - not everybody has it

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--save", ""]
    with tempfile.TemporaryDirectory(prefix="blackboard-perf-") as folder:
        always = ["--appendonly", "yes", "--appendfsync", "always"]
        with _process([*words, *always], Path(folder)) as process:
            _answers(process, port)
            yield Redis(host="127.0.0.1", port=port)


def _answers(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.01)
        else:
            return
    raise RuntimeError("redis-server does not start")


def install_redis() -> None:
    """Install redis-server by apt when this is root and it is missing; else say why not."""
    if shutil.which("redis-server") is not None:
        return
    apt = shutil.which("apt-get")
    if apt is None or os.geteuid() != 0:
        print("redis-server is missing, and installing it needs root and apt: it is left out")
        return
    # Runlevel 1 keeps the package from starting a server of its own.
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    words = [apt, "install", "-y", "-qq", "--no-install-recommends", "redis-server"]
    done = subprocess.run(words, env=quiet, stdout=subprocess.DEVNULL, check=False)  # noqa: S603 - fixed words
    if done.returncode != 0:
        print("apt could not install redis-server: it is left out (try `apt-get update`)")


if __name__ == "__main__":
    install_redis()
