"""The local stack under SIGKILL and SIGSTOP: nothing is left running, no store has two brokers."""

import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.to_thread
import nats
import psutil
import pytest
from nats.js import JetStreamContext

from blackboard.errors import UnavailableError
from blackboard.jetstream.dial import close
from blackboard.local import Endpoint, child as children, join, read_endpoint
from blackboard.local.broker import find_program
from blackboard.local.directory import Directory
from blackboard.local.locks import Lock, is_held, take_lock
from tests.inhabitants import inhabitants, is_alive
from tests.stack_users import ROOT, User, pids
from tests.waiting import wait_until

WAITING = (sys.executable, "-c", "input()")  # a program that does nothing until its input ends
# A supervisor with services of the test's own; arguments: data directory, program of the service.
SUPERVISOR = """
import logging, sys
from pathlib import Path
from blackboard.local import supervisor
from blackboard.local.directory import Directory
from blackboard.local.locks import take_lock
logging.basicConfig(level=logging.INFO, stream=sys.stderr)
supervisor.SERVICE_GRACE_S = 0.3
supervisor.LOG_BYTES = 10_000
directory = Directory.at(Path(sys.argv[1]))
service = ("service", (sys.executable, "-c", sys.argv[2]))
lock = take_lock(directory.supervisor_lock)
sys.exit(supervisor.Supervisor(directory, 0, lock, (service,)).run())
"""


async def test_a_killed_broker_is_back_within_a_second_on_its_port(data_dir: Path):
    async with join(data_dir, port=0) as endpoint:
        client = await nats.connect(  # pyright: ignore[reportUnknownMemberType]
            endpoint.url, token=endpoint.token, reconnect_time_wait=0.02, max_reconnect_attempts=-1
        )
        stream = JetStreamContext(client)
        await stream.add_stream(name="S", subjects=["s"])  # pyright: ignore[reportUnknownMemberType]
        took: list[float] = []
        for round_ in range(5):
            await stream.publish("s", b"kept")
            before = pids(data_dir)["nats-server"]
            begun = time.monotonic()
            os.kill(before, signal.SIGKILL)
            await wait_until(
                lambda before=before: pids(data_dir).get("nats-server", before) != before,
                "the state names another broker",
            )
            await wait_until(lambda: client.is_connected, "the client found the broker again")
            took.append(time.monotonic() - begun)
            info = await stream.stream_info("S")
            assert info.state.messages == round_ + 1
        await close(client)
        again = read_endpoint(data_dir)

        assert statistics.median(took) < 1.0  # one slow moment of a busy machine is forgiven
        assert again is not None
        assert (again.url, again.monitor) == (endpoint.url, endpoint.monitor)


async def test_joining_waits_for_a_broker_that_is_being_restarted(data_dir: Path):
    async def join_and_connect() -> None:
        async with join(data_dir) as second:
            assert second.url == first.url
            assert _accepts(second)

    async with join(data_dir, port=0) as first:
        supervisor = psutil.Process(pids(data_dir)["supervisor"])
        supervisor.suspend()  # so that nobody restarts the broker before we are waiting for it
        os.kill(pids(data_dir)["nats-server"], signal.SIGKILL)
        await wait_until(lambda: not _accepts(first), "the broker is gone")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(join_and_connect)
            await anyio.wait_all_tasks_blocked()
            supervisor.resume()


def _accepts(endpoint: Endpoint) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", int(endpoint.url.split(":")[2]))) == 0


async def test_children_end_with_a_killed_supervisor_and_the_next_finds_everything(data_dir: Path):
    user = User(data_dir)
    first = await user.joined()
    os.kill(first["pids"]["supervisor"], signal.SIGKILL)
    await wait_until(lambda: not inhabitants(data_dir), "the children ended", timeout=5)
    assert read_endpoint(data_dir) is None
    token = (data_dir / "token").read_text()

    async with join(data_dir, port=0) as endpoint:
        assert endpoint.started
        assert endpoint.url == first["url"]  # where clients of the first stack still look
        assert endpoint.token == token.strip()
        await user.leave()
        assert inhabitants(data_dir)


async def test_a_stopped_broker_left_by_a_killed_supervisor_is_ended_before_the_next(
    data_dir: Path, tmp_path: Path
):
    async with join(data_dir, port=0):
        orphan = psutil.Process(pids(data_dir)["nats-server"])
        orphan.suspend()
        os.kill(pids(data_dir)["supervisor"], signal.SIGKILL)
        await wait_until(
            lambda: not is_held(data_dir / "locks" / "supervisor.lock"), "the supervisor is gone"
        )
        assert is_alive(orphan.pid)

        async with join(data_dir, port=0) as endpoint:
            assert endpoint.started
            assert not is_alive(orphan.pid)


async def test_an_orphan_that_the_kernel_does_not_end_is_ended(data_dir: Path):
    """As on a system without PR_SET_PDEATHSIG: a broker on the store, its supervisor long gone."""
    async with join(data_dir, port=0):
        pass
    await wait_until(lambda: not inhabitants(data_dir), "the stack ended")
    lock = take_lock(data_dir / "locks" / "nats-server.lock")
    assert lock is not None
    orphan = _start_broker(data_dir, lock)

    async with join(data_dir, port=0) as endpoint:
        assert endpoint.started
        assert orphan.poll() is not None
    orphan.wait()


def _start_broker(data_dir: Path, lock: Lock) -> psutil.Popen:
    command = [find_program(), "-c", str(data_dir / "nats-server.conf")]
    broker = psutil.Popen(command, cwd=data_dir, pass_fds=(lock.fd,), stderr=subprocess.DEVNULL)
    os.write(lock.fd, str(broker.pid).encode())
    lock.leave()
    return broker


def test_a_process_that_does_not_hold_the_lock_is_never_signalled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(children, "ORPHAN_GRACE_S", 0.1)
    monkeypatch.setattr(children, "ORPHAN_LIMIT_S", 0.3)
    path = tmp_path / "broker.lock"
    holder = take_lock(path)
    assert holder is not None
    with holder, subprocess.Popen(WAITING, stdin=subprocess.PIPE) as bystander:
        for content in (str(bystander.pid), "1", "0", "-1", "", "not a number"):
            path.write_text(content)
            with pytest.raises(UnavailableError, match=r"lsof .*broker\.lock"):
                children.take_over(path)
        assert bystander.poll() is None
        bystander.communicate(b"\n")


def test_lsof_proves_the_same_as_proc(tmp_path: Path):
    path = tmp_path / "file"
    path.touch()
    with path.open():
        for look in (children.has_open, children.is_listed):
            assert look(os.getpid(), path)
            assert not look(os.getppid(), path)


async def test_a_user_who_comes_while_the_stack_ends_waits_and_gets_a_fresh_one(data_dir: Path):
    async with join(data_dir, port=0):
        before = pids(data_dir)
        broker = psutil.Process(before["nats-server"])
        broker.suspend()  # so that ending takes until we say so
    await wait_until(lambda: is_held(data_dir / "locks" / "users.lock"), "the stack began to end")
    user = User(data_dir)
    await wait_until(lambda: not (data_dir / "stack.json").exists(), "the state is gone")
    assert is_alive(before["supervisor"])
    assert read_endpoint(data_dir) is None

    broker.resume()
    found = await user.joined()
    await user.leave()

    assert found["started"]
    assert found["pids"]["supervisor"] != before["supervisor"]
    assert not is_alive(before["supervisor"])


async def test_users_coming_and_going_always_find_a_running_broker(data_dir: Path):
    async def come_and_go(number: int) -> None:
        for visit in range(4):
            async with join(data_dir, port=0) as endpoint:
                connection = await anyio.connect_tcp("127.0.0.1", int(endpoint.url.split(":")[2]))
                await connection.aclose()
            await anyio.sleep(0.05 * ((number + visit) % 3))  # shifts the users against each other

    async with anyio.create_task_group() as tasks:
        for number in range(4):
            tasks.start_soon(come_and_go, number)


def _move(data_dir: Path) -> None:
    data_dir.rename(data_dir.with_name("elsewhere"))


async def test_a_stack_whose_directory_was_removed_ends_and_harms_no_new_one(data_dir: Path):
    async with join(data_dir, port=0):
        running = pids(data_dir)
        _move(data_dir)
        async with join(data_dir, port=0) as endpoint:
            await wait_until(lambda: not any(map(is_alive, running.values())), "the old one ended")
            await wait_until(lambda: "steward" in _log(data_dir), "the new one lives on")

            assert endpoint.started
            assert read_endpoint(data_dir) is not None


def _log(data_dir: Path) -> str:
    return Directory.at(data_dir).log("supervisor").read_text()


@asynccontextmanager
async def _supervised(data_dir: Path, service: str) -> AsyncGenerator[psutil.Popen]:
    """Use a stack with a service of the test's own; its supervisor's log is `supervisor.log`."""
    directory = Directory.at(data_dir)
    directory.prepare()
    user = take_lock(directory.users_lock, shared=True)
    assert user is not None
    with directory.log("supervisor").open("w") as log:
        supervisor = psutil.Popen(
            [sys.executable, "-c", SUPERVISOR, str(data_dir), service],
            env={**os.environ, "PYTHONPATH": str(ROOT), "OWN": "handed on"},
            cwd=data_dir,
            stderr=log,
        )
    try:
        await wait_until(lambda: read_endpoint(data_dir), "the stack runs")
        yield supervisor
    finally:
        user.release()
        await anyio.to_thread.run_sync(supervisor.wait, 10)


async def test_a_service_learns_where_the_broker_is_and_is_restarted(data_dir: Path):
    service = (
        "import os, time; v = os.environ; "
        "print(v['BLACKBOARD_URL'], v['BLACKBOARD_TOKEN_FILE'], v['OWN'], flush=True); "
        "time.sleep(60)"
    )
    log = data_dir / "service.log"

    def said() -> list[str]:
        return log.read_text().splitlines() if log.exists() else []

    async with _supervised(data_dir, service):
        endpoint = read_endpoint(data_dir)
        await wait_until(lambda: len(said()) == 1, "the service spoke")
        os.kill(pids(data_dir)["service"], signal.SIGKILL)
        await wait_until(lambda: len(said()) == 2, "it spoke again")

    assert endpoint is not None
    assert said() == 2 * [f"{endpoint.url} {data_dir / 'token'} handed on"]


async def test_a_service_that_always_fails_is_restarted_ever_more_slowly(data_dir: Path):
    log = data_dir / "supervisor.log"

    def delays() -> list[str]:
        lines = log.read_text().splitlines()
        return [line.split("next start in ")[1] for line in lines if "code 3" in line]

    async with _supervised(data_dir, "raise SystemExit(3)"):
        await wait_until(lambda: len(delays()) == 4, "it failed four times")
        assert read_endpoint(data_dir)

    assert delays() == ["0.1 s", "0.2 s", "0.4 s", "0.8 s"]


async def test_a_service_that_ignores_sigterm_is_killed_and_its_log_is_cut(data_dir: Path):
    service = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "print('x' * 20_000, flush=True); time.sleep(60)"
    )
    older = data_dir / "service.log.1"
    async with _supervised(data_dir, service) as supervisor:
        await wait_until(older.exists, "the log was cut")
        await wait_until(lambda: not (data_dir / "service.log").read_text(), "and is empty")
        pid = pids(data_dir)["service"]

    assert not is_alive(pid)
    assert supervisor.returncode == 0
    assert len(older.read_text()) > 20_000
    log = (data_dir / "supervisor.log").read_text()
    assert "service does not end within 0.3 s, killed" in log
