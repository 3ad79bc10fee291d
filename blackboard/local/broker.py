"""The broker of a local stack: where its program is, what it is told, and whether it answers."""

import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import msgspec

from blackboard.errors import SettingsError, UnavailableError

PROGRAM = "nats-server"
GIB = 1 << 30
# Streams reserve their `max_bytes` against this number, used or not, and a board reserves about
# 9 GiB. It is a ceiling for promises, so it is set for some 900 boards; what stops a board from
# growing is its own `max_bytes`, and what stops all of them is the disk.
MAX_FILE_STORE = 8192 * GIB
# Presence and the bookkeeping of live readers; nothing reserves it, so it is a real ceiling.
MAX_MEMORY_STORE = 1 * GIB
# The server's own default is 1,000 consumers a stream, and a bucket asks for "unlimited", which
# means that default.
MAX_CONSUMERS = 100_000
# Fallback ports lie below the range from which systems take the ports of outgoing connections: in
# that range a client that looks for a restarting broker can be given the very port it looks for.
FALLBACK_PORTS = range(20_000, 32_000)
FALLBACK_TRIES = 20
ANSWER_LIMIT_S = 1.0


class Greeting(msgspec.Struct, frozen=True):
    """The part we need of the INFO line that a NATS server sends to every connection."""

    server_name: str
    version: str


class _Varz(msgspec.Struct, frozen=True):
    config_digest: str = ""


_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def find_program() -> str:
    """Find the broker's program: the PyPI package beside this Python first, then the PATH.

    Raises:
        SettingsError: It is not installed.
    """
    for folder in (Path(sys.executable).parent, Path(sysconfig.get_path("scripts"))):
        if os.access(folder / PROGRAM, os.X_OK):
            return str(folder / PROGRAM)
    found = shutil.which(PROGRAM)
    if found is None:
        raise SettingsError(
            "the local stack needs the program nats-server; install it with: "
            "pip install 'blackboard-agents[local]' (or set BLACKBOARD_URL to a running broker)"
        )
    return str(Path(found).absolute())


def configuration(
    *, name: str, port: int, monitor: int, token: str = "", accounts: str | None = None
) -> str:
    """Write the broker's configuration; paths are relative to its working directory.

    Who may connect: whoever has the token, or with `accounts` those whom the access policy knows.

    Loopback only. `sync_interval: always` because the default acknowledges a write up to two
    minutes before it is on disk. The log goes to standard error, into the file that the supervisor
    keeps short. `js_ack_fc_v2` stays off: nats-py cannot read that form of acknowledgement.
    """
    who = f"authorization {{ token: {json.dumps(token)} }}\n" if accounts is None else accounts
    return f"""\
# Written by the supervisor at every start; changes are lost.
server_name: {json.dumps(name)}
listen: "127.0.0.1:{port}"
http: "127.0.0.1:{monitor}"
{who}jetstream {{
  store_dir: "."
  sync_interval: always
  max_file_store: {MAX_FILE_STORE}
  max_memory_store: {MAX_MEMORY_STORE}
  limits {{ default_max_consumers: {MAX_CONSUMERS} }}
}}
"""


def read_greeting(port: int) -> Greeting | None:
    """Connect and read the server's first line; None when nobody, or nothing like NATS, answers.

    JetStream is recovered before the port is opened, so a greeting means ready.
    """
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=ANSWER_LIMIT_S) as connection:
            line = connection.makefile("rb").readline(65_536)
    except OSError:
        return None
    try:
        return msgspec.json.decode(line.removeprefix(b"INFO "), type=Greeting)
    except msgspec.MsgspecError:
        return None


def tried_digest(path: Path) -> str:
    """Have the program read a configuration without running it; its digest of that.

    Raises:
        UnavailableError: It would not start with it; the text says why.
    """
    command = [find_program(), "-t", "-c", str(path)]
    tried = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    found = _DIGEST.search(tried.stderr)
    if tried.returncode or found is None:
        raise UnavailableError(f"{PROGRAM} does not take {str(path)!r}: {tried.stderr.strip()}")
    return found.group()


def read_digest(monitor: str) -> str | None:
    """The digest of the configuration in force, as its monitoring says; None without an answer."""
    try:
        with urlopen(f"{monitor}/varz", timeout=ANSWER_LIMIT_S) as answer:  # noqa: S310 - loopback
            return msgspec.json.decode(answer.read(), type=_Varz).config_digest
    except (OSError, msgspec.MsgspecError):
        return None


def free_ports(*wanted: int) -> Iterator[int]:
    """Give the ports to try, best first: those wanted, then some at random; never a taken one.

    Between this look and the broker's own bind another process may take the port. The bind decides:
    the broker then exits, and the next port is tried.
    """
    fallback = (random.SystemRandom().choice(FALLBACK_PORTS) for _ in range(FALLBACK_TRIES))
    for port in (*wanted, *fallback):
        if port and _is_free(port):
            yield port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As the broker does; without it connections of an ended broker block the port for a minute.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
