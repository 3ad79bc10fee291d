"""The user's side of the local stack: join it, start it when it is not there, leave it."""

import os
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import anyio
import anyio.to_thread

from blackboard.errors import SettingsError, UnavailableError
from blackboard.local.broker import find_program, read_greeting
from blackboard.local.directory import Directory
from blackboard.local.locks import Lock, is_held, take_lock

DEFAULT_PORT = 4222
JOIN_LIMIT_S = 60.0  # a broker with a large store reads it first
POLL_S = 0.01


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a local stack is, and how to get in."""

    url: str
    """Address of the broker, without the secret; stays the same while the stack runs."""
    token: str = field(repr=False)
    """Lets anybody in; empty when the broker has credentials."""
    monitor: str
    """Address of the broker's monitoring pages; loopback, no token needed."""
    data_dir: Path
    started: bool
    """True when this call started the stack, False when it joined a running one."""
    credentials: Path | None = None
    """The folder with everybody's credentials; None when the broker has no credentials."""


@asynccontextmanager
async def join(data_dir: Path, *, port: int = DEFAULT_PORT) -> AsyncGenerator[Endpoint]:
    """Use the local stack of a data directory, starting it when it does not run.

    The broker answers when this returns. However many processes call this at once, one stack runs.
    It runs in processes of its own and ends, half a second later, when the last user has left the
    context or died. A user that comes while it ends waits and starts it anew. A broker that dies is
    started again on the same port, so clients reconnect by themselves. The supervisor is not:
    when it is killed, the broker ends too, and the next `join` starts both.

    A process forked inside the context counts as a user until the context is left.

    Args:
        data_dir: Made when missing; holds everything the stack stores. For the users of one machine
            only.
        port: Where a stack that this call starts listens, if nobody else does; otherwise, and for
            0, a free port. A running stack is joined wherever it listens.

    Raises:
        SettingsError: The directory cannot be used, or the program nats-server is not installed.
        UnavailableError: The stack did not start within a minute; the text names the log to read.
    """
    if not 0 <= port <= 65_535:
        raise SettingsError(f"port {port} is not a number from 0 to 65535")
    directory = Directory.at(data_dir)
    directory.prepare()
    deadline = anyio.current_time() + JOIN_LIMIT_S
    with await _be_counted(directory, deadline):
        yield await _enter(directory, port, deadline)


def read_endpoint(data_dir: Path) -> Endpoint | None:
    """Tell where the stack of a data directory runs, without using it; None when it does not.

    Without a `join` the stack may end at any moment.

    Raises:
        SettingsError: The directory cannot be read.
    """
    directory = Directory.at(data_dir)
    if not is_held(directory.ready_lock):
        return None
    state = directory.read_state()
    if state is None:
        return None
    return Endpoint(
        url=state.url,
        token=directory.read_token() if state.access is None else "",
        monitor=state.monitor,
        data_dir=directory.path,
        started=False,
        credentials=None if state.access is None else directory.credentials,
    )


async def _be_counted(directory: Directory, deadline: float) -> Lock:
    """Become a user; while a supervisor ends it lets nobody in."""
    while (user := take_lock(directory.users_lock, shared=True)) is None:
        if anyio.current_time() > deadline:
            raise _late(directory, "an ending local stack does not go away")
        await anyio.sleep(POLL_S)
    return user


async def _enter(directory: Directory, port: int, deadline: float) -> Endpoint:
    """Wait for the stack, starting it if nobody else does."""
    started = False
    while anyio.current_time() < deadline:
        endpoint = read_endpoint(directory.path)
        if endpoint is not None and await anyio.to_thread.run_sync(_answers, directory):
            return replace(endpoint, started=started)
        # Whoever gets this lock hands it down to the supervisor, so there is never a second one.
        lock = take_lock(directory.supervisor_lock)
        if lock is not None:
            try:
                if started:
                    raise _late(directory, "the local stack did not start")
                await _start_supervisor(directory, port, lock)
            finally:
                lock.leave()
            started = True
        await anyio.sleep(POLL_S)
    raise _late(directory, "the local stack does not answer")


def _answers(directory: Directory) -> bool:
    state = directory.read_state()
    greeting = None if state is None else read_greeting(state.port)
    return state is not None and greeting is not None and greeting.server_name == state.name


async def _start_supervisor(directory: Directory, port: int, lock: Lock) -> None:
    """Start the supervisor; the process started here leaves it behind and ends at once."""
    find_program()
    command = [sys.executable, "-P", "-m", "blackboard.local", str(directory.path)]
    command += ["--port", str(port), "--lock-fd", str(lock.fd), "--detach"]
    log = os.open(directory.log("supervisor"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        await anyio.run_process(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            check=False,  # without a supervisor the lock is free again, which the caller sees
            cwd=directory.path,
            env=_environment(),
            pass_fds=(lock.fd,),
        )
    finally:
        os.close(log)


def _environment() -> dict[str, str]:
    """Let a process with another working directory import what this one imports."""
    environment = dict(os.environ)
    paths = [entry for entry in environment.get("PYTHONPATH", "").split(os.pathsep) if entry]
    root = Path(__file__).resolve().parents[2]
    if root.name not in ("site-packages", "dist-packages"):
        paths.append(str(root))  # not those two: they would go before the standard library
    environment["PYTHONPATH"] = os.pathsep.join(str(Path(path).absolute()) for path in paths)
    return environment


def _late(directory: Directory, what: str) -> UnavailableError:
    log = directory.log("supervisor")
    try:
        last = log.read_text(errors="replace").strip().rpartition("\n")[2]
    except OSError:
        last = ""
    return UnavailableError(f"{what}; see {str(log)!r}, which ends: {last!r}")
