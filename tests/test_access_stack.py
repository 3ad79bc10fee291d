"""A local stack with an access policy: secured whoever starts it, and changed while it runs."""

import json
import os
import signal
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import nats
import psutil
import pytest

from blackboard import Blackboard
from blackboard.access import Policy
from blackboard.access.identity import Identity
from blackboard.cli.policies import enrol_local
from blackboard.errors import DeniedError, SettingsError, UnavailableError
from blackboard.jetstream import Connection
from blackboard.local import Endpoint, join
from blackboard.local.broker import PROGRAM, configuration
from blackboard.local.directory import Directory
from blackboard.local.security import take_policy, write_policy
from tests.commands import Done, finished, start
from tests.inhabitants import inhabitants
from tests.servers import Server
from tests.stack_users import pids
from tests.waiting import wait_until

POLICY = """\
# Who may do what.
[roles.writer]
read  = [{ topics = ["docs.>"] }]
write = [{ topics = ["docs.>"] }]

[boards.main.agents.alice]
roles = ["writer"]

[boards.main.agents.bob]
roles = ["writer"]
"""
OPEN = """\
# Written by the supervisor at every start; changes are lost.
server_name: "n"
listen: "127.0.0.1:1"
http: "127.0.0.1:2"
authorization { token: "t" }
jetstream {
  store_dir: "."
  sync_interval: always
  max_file_store: 8796093022208
  max_memory_store: 1073741824
  limits { default_max_consumers: 100000 }
}
"""


def test_the_configuration_without_a_policy_is_what_it_was():
    assert configuration(name="n", port=1, monitor=2, token="t") == OPEN  # noqa: S106


@asynccontextmanager
async def _stack(data_dir: Path, policy: str = POLICY) -> AsyncGenerator[Endpoint]:
    """A running stack with a policy in force, services included."""
    directory = Directory.at(data_dir)
    directory.prepare()
    write_policy(directory, policy)
    async with join(data_dir, port=0) as endpoint:
        await enrol_local(endpoint)
        yield endpoint


def _identity(data_dir: Path, agent: str) -> Identity:
    return Identity.find(data_dir / "credentials", "main", agent)


async def _command(*arguments: object) -> Done:
    """Run a command without holding up the connections of this process."""
    return await anyio.to_thread.run_sync(finished, start(*arguments))


async def test_a_directory_with_a_policy_has_a_broker_with_credentials(data_dir: Path):
    async with _stack(data_dir) as endpoint:
        with pytest.raises(SettingsError, match="BLACKBOARD_CREDENTIALS"):
            async with Connection.open(endpoint.url):
                pass
        modes = _modes(data_dir)
        services = pids(data_dir)
        given = {name: psutil.Process(services[name]).environ() for name in ("steward", "recall")}

        assert endpoint.credentials == data_dir / "credentials"
        assert endpoint.token == ""
        assert not (data_dir / "token").exists()
        assert set(modes.values()) == {0o600}
        for name, environment in given.items():
            own = str(data_dir / "credentials" / f"{name}.nk")
            assert environment["BLACKBOARD_CREDENTIALS"] == own
            assert "BLACKBOARD_TOKEN_FILE" not in environment


def _modes(data_dir: Path) -> dict[Path, int]:
    secrets = (data_dir / "access.toml", *data_dir.rglob("*.nk"))
    return {path: path.stat().st_mode & 0o777 for path in secrets}


async def test_agents_of_the_policy_use_it_and_others_cannot(data_dir: Path):
    async with _stack(data_dir):
        async with Blackboard.local(data_dir=data_dir, agent="alice") as board:
            ref = await board.put("docs.q", "hello")
            memory = await board.get(ref)
            with pytest.raises(DeniedError, match="may not write topic 'other'"):
                await board.put("other", "x")
        with pytest.raises(SettingsError, match="no credential for agent 'carol'"):
            async with Blackboard.local(data_dir=data_dir, agent="carol"):
                pass

        assert memory.content == "hello"


async def test_what_was_stored_without_credentials_is_there_with_them(data_dir: Path):
    async with Blackboard.local(data_dir=data_dir, agent="alice") as board:
        ref = await board.put("docs.q", "from before")
    await _ended(data_dir)
    async with _stack(data_dir), Blackboard.local(data_dir=data_dir, agent="bob") as board:
        assert (await board.get(ref)).content == "from before"
        # The steward has the streams listen where no forged reply can go.
        await wait_until(partial(_stores, board), "a memory can be stored", timeout=20)


async def _stores(board: Blackboard) -> bool:
    try:
        await board.put("docs.q", "from now")
    except UnavailableError:
        return False
    return True


async def _ended(data_dir: Path) -> None:
    """Wait for the end of a stack that nobody uses; who comes before joins it."""
    await wait_until(lambda: not inhabitants(data_dir), "the stack has ended", timeout=20)


async def test_a_policy_that_is_gone_opens_nothing(data_dir: Path):
    async with _stack(data_dir):
        pass
    await _ended(data_dir)
    (data_dir / "access.toml").rename(data_dir / "elsewhere.toml")

    with pytest.raises(UnavailableError, match=r"put 'access\.toml' back"):
        async with join(data_dir, port=0):
            pass


async def test_a_broken_policy_leaves_the_old_one_in_force(data_dir: Path):
    log = Directory.at(data_dir).log("supervisor")
    async with _stack(data_dir) as endpoint:
        before = Directory.at(data_dir).read_state()
        (data_dir / "access.toml").write_text(f"{POLICY}\n[boards.main.agents.carol]\nroles = []\n")
        os.kill(pids(data_dir)["supervisor"], signal.SIGHUP)
        await wait_until(lambda: "is not taken" in log.read_text(), "the supervisor refuses it")
        after = Directory.at(data_dir).read_state()
        async with Connection.open(endpoint.url, identity=_identity(data_dir, "alice")):
            pass

        assert "access.toml:13: boards.main.agents.carol.roles is empty" in log.read_text()
        assert before is not None
        assert after is not None
        # Its services may still be starting; the broker is the same, under the same policy.
        assert (before.access, before.pids[PROGRAM]) == (after.access, after.pids[PROGRAM])


async def test_a_policy_is_taken_while_the_stack_runs_and_after_the_broker_was_killed(
    data_dir: Path,
):
    more = f'{POLICY}\n[boards.main.agents.carol]\nroles = ["writer"]\n'
    directory = Directory.at(data_dir)
    again: list[None] = []
    async with (
        _stack(data_dir) as endpoint,
        Connection.open(endpoint.url, identity=_identity(data_dir, "alice")) as alice,
    ):
        alice.on_reconnect(lambda: again.append(None))
        write_policy(directory, more)
        await take_policy(directory)
        async with Connection.open(endpoint.url, identity=_identity(data_dir, "carol")):
            pass
        assert again == []

        os.kill(pids(data_dir)["nats-server"], signal.SIGKILL)
        write_policy(directory, POLICY)
        await take_policy(directory)
        await wait_until(lambda: again, "alice is connected again", timeout=20)
        with pytest.raises(SettingsError, match="refused the credential of 'carol'"):
            async with Connection.open(endpoint.url, identity=_identity(data_dir, "carol")):
                pass


async def test_a_stack_that_runs_open_is_not_given_a_policy(data_dir: Path, tmp_path: Path):
    (tmp_path / "access.toml").write_text(POLICY)
    async with join(data_dir, port=0):
        up = await _command("up", "--data", data_dir, "--access", tmp_path / "access.toml")
        applied = await _command("access", "apply", tmp_path / "access.toml", "--data", data_dir)

        assert (up.code, applied.code) == (2, 2)
        assert "runs without credentials" in up.err
        assert "runs without credentials" in applied.err
        assert not (data_dir / "access.toml").exists()


async def test_up_starts_a_secured_board(data_dir: Path, tmp_path: Path):
    (tmp_path / "access.toml").write_text(POLICY)
    up = start("up", "--data", data_dir, "--port", 0, "--access", tmp_path / "access.toml")
    try:
        assert up.stdout is not None
        said = [await anyio.to_thread.run_sync(up.stdout.readline) for _ in range(11)]
        async with Blackboard.local(data_dir=data_dir, agent="alice") as board:
            await board.put("docs.q", "hello")
        up.terminate()
        await anyio.to_thread.run_sync(up.wait)
    finally:
        up.kill()
        up.communicate()

    assert said[0] == "started a local stack\n"
    assert f"credentials  in {data_dir / 'credentials'}, which only you may read\n" in said
    assert "An agent does what the access policy grants it: blackboard access check\n" in said
    assert (data_dir / "access.toml").read_text() == POLICY


async def test_agents_are_added_renewed_and_revoked_at_once(data_dir: Path):
    async with _stack(data_dir) as endpoint:
        added = await _command("access", "add", "carol", "--role", "writer", "--data", data_dir)
        assert added.code == 0, added
        assert str(data_dir / "credentials/main/carol.nk") in added.out
        async with Blackboard.local(data_dir=data_dir, agent="carol") as board:
            ref = await board.put("docs.q", "of carol")

        again: list[None] = []
        async with Connection.open(endpoint.url, identity=_identity(data_dir, "alice")) as alice:
            alice.on_reconnect(lambda: again.append(None))
            rotated = await _cut_off(endpoint, "rotate", "carol")
            async with Blackboard.local(data_dir=data_dir, agent="carol") as board:
                assert (await board.get(ref)).content == "of carol"
            revoked = await _cut_off(endpoint, "revoke", "carol")
            assert alice.client.is_connected
            assert again == []
        async with Blackboard.local(data_dir=data_dir, agent="alice") as board:
            assert (await board.get(ref)).content == "of carol"

        assert json.loads(rotated.out)["services"]["granted"] == [["main", "carol"]]
        assert json.loads(revoked.out)["services"]["revoked"] == [["main", "carol"]]
        assert not (data_dir / "credentials" / "main" / "carol.nk").exists()
        assert (data_dir / "access.toml").read_text().rstrip() == POLICY.rstrip()


async def _cut_off(endpoint: Endpoint, act: str, agent: str) -> Done:
    """Run a command that cuts an agent off, while it is connected."""
    cut = anyio.Event()

    async def on_closed() -> None:
        cut.set()

    async def on_error(_: Exception) -> None:
        return

    client = await nats.connect(  # pyright: ignore[reportUnknownMemberType]
        endpoint.url,
        nkeys_seed_str=_identity(endpoint.data_dir, agent).seed,
        closed_cb=on_closed,
        error_cb=on_error,
        allow_reconnect=False,
    )
    done = await _command("access", act, agent, "--data", endpoint.data_dir, "--json")
    with anyio.fail_after(5):
        await cut.wait()
    await client.close()
    return done


async def test_a_broker_of_ones_own_gets_files_and_its_services_are_told(
    tmp_path: Path, start_server: Callable[..., Server]
):
    policy, config, keys = (tmp_path / name for name in ("access.toml", "accounts.conf", "keys"))
    policy.write_text(POLICY)
    files = ("--config", config, "--credentials", keys)
    written = await _command("access", "apply", policy, *files)
    assert written.code == 0, written
    server = start_server(extra="include '../accounts.conf'")
    told = await _command(
        "access", "publish", policy, "--credentials", keys, "--url", server.url, "--json"
    )
    added = await _command(
        "access", "add", "carol", "--role", "writer", "--policy", policy, *files, "--json"
    )
    half = await _command("access", "revoke", "carol", "--policy", policy)

    assert "blackboard access publish" in written.out
    assert json.loads(told.out)["services"]["granted"] == [["main", "alice"], ["main", "bob"]]
    assert json.loads(added.out)["credential"] == str(keys / "main" / "carol.nk")
    assert ("main", "carol") in Policy.load(policy).members
    assert (half.code, "give --config and --credentials as well" in half.err) == (2, True)
