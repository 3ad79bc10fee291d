"""The policy at the broker: who may publish, read and listen where; tried with raw clients."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from blackboard.access import Policy
from blackboard.access.broker import configuration, permissions, service_permissions
from blackboard.access.identity import PREFIX, read_subject
from blackboard.access.keys import Keyring
from blackboard.errors import SettingsError
from blackboard.jetstream import Connection
from blackboard.layout import create_board
from blackboard.settings import Limits
from tests.secured import Raw, Secured
from tests.servers import Server, find_binary
from tests.waiting import wait_until

POLICY = """\
[roles.reader]
read = [{ topics = ["docs.>", "exact", "one.*"], labels = ["shared"] }]
[roles.writer]
write = [{ topics = ["docs.>"], labels = ["shared", "pii"] }]
[roles.clerk]
read = [{ topics = ["cases.>"] }, { topics = ["letters.>"], labels = ["{user}"] }]

[boards.main.agents.alice]
roles = ["reader", "writer"]
handlers = ["sum"]
[boards.main.agents.bob]
roles = ["reader"]
[boards.main.agents.clerk]
roles = ["clerk"]
users = ["ann"]
[boards.lab.agents.alice]
roles = ["reader", "writer"]
"""
AGENTS = 1_000


def _policy_of(agents: int) -> str:
    """A policy of many agents with twenty rights each, no two alike."""
    roles = "".join(
        f'[roles.r{number}]\nread = [{{ topics = ["a{number}.>", "b{number}.>", "c.*.d{number}"], '
        f'labels = ["shared", "pii", "l{number}"] }}]\nwrite = [{{ topics = ["w{number}.>"] }}]\n'
        for number in range(agents // 2)
    )
    members = "".join(
        f"[boards.b{number % 10}.agents.agent-{number}]\n"
        f'roles = ["r{number // 2}", "r{(number + 7) % (agents // 2)}"]\nhandlers = ["h"]\n'
        for number in range(agents)
    )
    return roles + members


@pytest.fixture
def secured(tmp_path: Path, start_server: Callable[..., Server]) -> Secured:
    return Secured(tmp_path, start_server, POLICY)


@pytest.fixture
async def boards(secured: Secured) -> None:
    """The boards of the policy, with a memory here and there."""
    async with Connection.open(secured.url, identity=secured.identity("cli")) as connection:
        for board in ("main", "lab"):
            await create_board(connection, board, Limits())
    async with secured.client("steward") as steward:
        for topic in ("docs.q", "docs.secret.q", "exact", "exact.secret", "one.a", "one.a.secret"):
            for label in ("shared", "pii"):
                assert await steward.stores(f"mem.main.{label}.carol.{topic}.k", topic.encode())
        assert await steward.stores("mem.lab.shared.carol.docs.q.k", b"of the lab")
        assert await steward.stores("mem.main.ann.carol.letters.k", b"of ann")
        assert await steward.stores("mem.main.bob.carol.letters.k", b"of bob")
        assert await steward.stores("mem.main.shared.carol.cases.k", b"a case")


def test_an_agent_gets_allow_lists_and_nothing_else():
    rights = Policy.parse(POLICY).rights("main", "alice")
    assert rights is not None

    publish, subscribe = permissions(rights)

    assert set(publish) == {
        "_R_.bb.mem.main.shared.alice.docs.>",
        "_R_.bb.mem.main.pii.alice.docs.>",
        "_R_.bb.mem.main.shared.alice.once.>",
        "_R_.bb.mem.main.pii.alice.once.>",
        "_R_.bb.blob.main.shared.alice.>",
        "_R_.bb.blob.main.pii.alice.>",
        "_R_.bb.claim.main.shared.alice.>",
        "_R_.bb.claim.main.pii.alice.>",
        "_R_.bb.audit.main.alice",
        "_R_.bb.spans.main.alice",
        "_R_.bb.dead.main.alice.>",
        "_R_.bb.$KV.agents_main.alice.>",
        "_R_.bb.rd.main.alice.MEM_main.mem.main.shared.*.docs.>",
        "_R_.bb.rd.main.alice.MEM_main.mem.main.shared.*.exact.*",
        "_R_.bb.rd.main.alice.MEM_main.mem.main.shared.*.one.*.*",
        "_R_.bb.rd.main.alice.MEM_main.mem.main.shared.*.once.>",
        "_R_.bb.rd.main.alice.MEM_main.mem.main.shared.alice.docs.>",
        "_R_.bb.rd.main.alice.MEM_main.mem.main.pii.alice.docs.>",
        "_R_.bb.rd.main.alice.MEM_main.mem.main.shared.alice.once.>",
        "_R_.bb.rd.main.alice.MEM_main.mem.main.pii.alice.once.>",
        "_R_.bb.rd.main.alice.MEM_main.claim.main.shared.*.>",
        "_R_.bb.rd.main.alice.MEM_main.claim.main.pii.*.>",
        "_R_.bb.rd.main.alice.ACCESS.access.main.alice",
        "$JS.API.CONSUMER.MSG.NEXT.MEM_main.alice--sum",
        "$JS.API.CONSUMER.MSG.NEXT.DEAD_main.alice--sum",
        "$JS.ACK.MEM_main.alice--sum.>",
        "$JS.ACK.DEAD_main.alice--sum.>",
        "hint.main.shared.*",
        "hint.main.pii.*",
        "svc.main.*.alice",
        "$JS.FC.>",
    }
    assert set(subscribe) == {"_INBOX.main.alice.>", "hint.main.shared.*", "hint.main.pii.*"}


def test_services_write_no_memories_but_under_their_own_names():
    for name, (publish, _) in service_permissions().items():
        written = [subject for subject in publish if subject.startswith((f"{PREFIX}mem", "mem"))]
        everywhere = [subject for subject in publish if subject in (">", f"{PREFIX}>")]

        assert not everywhere or name == "steward"
        # The consolidator puts tombstones over what others wrote, as the steward does.
        assert name == "consolidator" or all(subject.split(".")[5] == name for subject in written)
    assert not [one for one in service_permissions()["recall"].publish if ".mem" in one]


def test_the_broker_takes_a_policy_of_a_thousand_agents(tmp_path: Path):
    text = _policy_of(AGENTS)
    keys = Keyring(tmp_path / "credentials").ensure(Policy.parse(text).agents())

    compiled = configuration(Policy.parse(text), keys)

    (tmp_path / "broker.conf").write_text(f'listen: "127.0.0.1:-1"\n{compiled}')
    tried = subprocess.run(
        [find_binary(), "-t", "-c", str(tmp_path / "broker.conf")], capture_output=True, check=False
    )
    assert tried.returncode == 0, tried.stderr[-500:]


@pytest.mark.usefixtures("boards")
async def test_an_agent_writes_as_itself_where_it_has_the_right(secured: Secured):
    async with secured.client("alice") as alice:
        assert await alice.stores("mem.main.shared.alice.docs.q.k")
        assert await alice.stores("mem.main.pii.alice.docs.q.k")
        assert await alice.stores("mem.main.shared.alice.once.sum.k")

        for subject in (
            "mem.main.shared.bob.docs.q.k",
            "mem.main.shared.alice.other.k",
            "mem.main.finance.alice.docs.k",
            "mem.main.shared.*.docs.k",
            "mem.main.*.alice.docs.k",
            "mem.lab.shared.alice.docs.k",
            "claim.main.shared.bob.o-1",
            "blob.main.shared.bob.b.0",
            "audit.main.bob",
            "access.main.alice",
            "rd.main.bob.MEM_main.mem.main.shared.carol.docs.q.k",
        ):
            assert not await alice.stores(subject), subject
        # What no stream captures, nobody may publish either.
        assert await alice.ask("mem.main.shared.alice.docs.q.k") is None
        assert len(alice.denied) == 12


@pytest.mark.usefixtures("boards")
async def test_an_agent_reads_what_it_has_the_right_to(secured: Secured):
    async with secured.client("bob") as bob:
        assert await bob.reads("bob", "mem.main.shared.*.docs.q.k") == b"docs.q"
        assert await bob.reads("bob", "mem.main.shared.carol.docs.secret.q.k") == b"docs.secret.q"
        assert await bob.reads("bob", "mem.main.shared.*.exact.k") == b"exact"
        assert await bob.reads("bob", "mem.main.shared.*.one.a.k") == b"one.a"

        for subject in (
            "mem.main.pii.*.docs.q.k",
            "mem.main.*.*.docs.q.k",
            "mem.main.shared.*.exact.secret.k",
            "mem.main.shared.*.one.a.secret.k",
            "mem.lab.shared.*.docs.q.k",
            "mem.main.>",
            ">",
        ):
            assert await bob.reads("bob", subject) is None, subject
        assert await bob.reads("alice", "mem.main.shared.*.docs.q.k") is None
        assert await bob.ask("$JS.API.DIRECT.GET.MEM_main.mem.main.shared.*.docs.q.k") is None
        assert await bob.ask("bbread.main.bob.MEM_main.mem.main.shared.*.docs.q.k") is None


@pytest.mark.usefixtures("boards")
async def test_an_arrow_in_place_of_a_star_reads_nothing(secured: Secured):
    # The broker's allow list takes the arrow for the token that its star stands for.
    arrows = (
        "mem.main.shared.*.exact.>",
        "mem.main.shared.*.one.a.>",
        "mem.main.shared.*.one.>.k",
        "mem.main.shared.>.docs.k",
        "mem.main.shared.>.docs.>",
        "mem.main.shared.*.one.>",
        "mem.main.shared.*.docs.>",
    )
    async with secured.client("bob") as bob:
        inbox = bob.client.new_inbox()
        answers = await bob.client.subscribe(inbox)  # pyright: ignore[reportUnknownMemberType]
        for subject in arrows:
            asked = read_subject("main", "bob", "MEM_main", subject)
            await bob.client.publish(asked, reply=inbox)
        await bob.settle()
        assert await bob.reads("bob", "mem.main.shared.*.exact.k") == b"exact"

        assert answers.pending_msgs == 0


@pytest.mark.usefixtures("boards")
async def test_topics_of_ten_tokens_can_be_read(secured: Secured):
    deep = ".".join(["docs", *("t" for _ in range(9))])
    async with secured.client("steward") as steward:
        assert await steward.stores(f"mem.main.shared.carol.{deep}.k", b"deep")
    async with secured.client("bob") as bob:
        assert await bob.reads("bob", f"mem.main.shared.*.{deep}.k") == b"deep"


@pytest.mark.usefixtures("boards")
async def test_a_label_of_a_users_own_is_enforced_by_the_broker_and_users_elsewhere_are_not(
    secured: Secured,
):
    async with secured.client("clerk") as clerk:
        assert await clerk.reads("clerk", "mem.main.ann.*.letters.k") == b"of ann"
        assert await clerk.reads("clerk", "mem.main.bob.*.letters.k") is None
        # About whom a case is, only a service can tell.
        assert await clerk.reads("clerk", "mem.main.shared.*.cases.k") is None


@pytest.mark.usefixtures("boards")
async def test_nobody_listens_to_others(secured: Secured):
    async with secured.client("bob") as bob, secured.client("steward") as steward:
        heard: list[str] = []

        async def hear(message: object) -> None:
            heard.append(str(message))

        for subject in (">", "_INBOX.>", "_INBOX.main.alice.>", "_R_.>", "mem.>", "svc.>", "$JS.>"):
            await bob.client.subscribe(subject, cb=hear)  # pyright: ignore[reportUnknownMemberType]
        await bob.settle()
        await steward.client.publish("_INBOX.main.alice.x", b"for alice")
        await steward.settle()
        await bob.settle()

        assert len(bob.denied) == 7
        assert heard == []


async def test_a_policy_is_reloaded_without_a_disconnect_or_a_lost_message(secured: Secured):
    async with Connection.open(secured.url, identity=secured.identity("cli")) as connection:
        await create_board(connection, "main", Limits())
    sent: list[int] = []
    ended = anyio.Event()

    async def publish(alice: Raw) -> None:
        while not ended.is_set():
            body = str(len(sent)).encode()
            assert await alice.stores(f"mem.main.shared.alice.docs.k{len(sent)}", body)
            sent.append(len(sent))

    async with secured.client("alice") as alice, secured.client("bob") as bob:
        async with anyio.create_task_group() as group:
            group.start_soon(publish, alice)
            await wait_until(lambda: len(sent) > 20, "alice publishes")
            for wider in (_policy_of(AGENTS), ""):
                reached = len(sent)
                await secured.apply(POLICY + wider)
                await wait_until(lambda: len(sent) > reached + 20, "alice goes on")  # noqa: B023
            ended.set()

        last = await bob.reads("bob", f"mem.main.shared.alice.docs.k{sent[-1]}")
        assert (alice.losses, bob.losses, alice.denied) == (0, 0, [])
        assert last == str(sent[-1]).encode()
    async with secured.client("cli") as cli:
        info = await cli.ask("$JS.API.STREAM.INFO.MEM_main")
        assert info is not None
        assert f'"messages":{len(sent)}'.encode() in info.data


@pytest.mark.usefixtures("boards")
async def test_rights_that_change_hold_for_live_connections_and_the_revoked_is_cut_off(
    secured: Secured,
):
    async with secured.client("bob") as bob, secured.client("alice") as alice:
        assert await bob.reads("bob", "mem.main.pii.*.docs.q.k") is None
        wider = POLICY.replace('labels = ["shared"] }', 'labels = ["shared", "pii"] }')
        await secured.apply(wider)
        assert await bob.reads("bob", "mem.main.pii.*.docs.q.k") == b"docs.q"
        assert bob.losses == 0

        await secured.apply(wider.replace("[boards.main.agents.bob]\nroles = ", "#"))
        await wait_until(lambda: bob.losses, "bob is cut off")

        assert alice.losses == 0
        assert await alice.stores("mem.main.shared.alice.docs.q.k")


@pytest.mark.usefixtures("boards")
async def test_a_rotated_key_cuts_off_who_has_the_old_one(secured: Secured):
    old = secured.identity("bob").seed
    async with secured.client("bob", max_reconnect_attempts=0) as bob:
        secured.keyring.rotate("bob", "main")
        await secured.apply(POLICY)
        await wait_until(lambda: bob.losses, "the old key is cut off")
    async with secured.client("bob") as bob:
        assert await bob.reads("bob", "mem.main.shared.*.docs.q.k") == b"docs.q"
    assert secured.identity("bob").seed != old


def test_credentials_are_for_their_owner_and_never_written_over(tmp_path: Path):
    keyring = Keyring(tmp_path / "credentials")
    first = keyring.ensure([("main", "alice"), ("lab", "alice")])
    again = keyring.ensure([("main", "alice"), ("lab", "alice"), ("main", "bob")])

    assert first.services == again.services
    assert first.agents.items() < again.agents.items()
    assert len(set(again.agents.values()) | set(again.services.values())) == 9
    files = [path for path in keyring.directory.rglob("*") if path.is_file()]
    assert len(files) == 9
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert {path.parent.stat().st_mode & 0o777 for path in files} == {0o700}


def test_a_rotated_or_removed_credential_makes_another_key(tmp_path: Path):
    keyring = Keyring(tmp_path / "credentials")
    before = keyring.ensure([("main", "alice"), ("main", "bob")]).agents

    rotated = keyring.rotate("alice", "main")
    keyring.remove("bob", "main")
    after = keyring.ensure([("main", "alice"), ("main", "bob")]).agents

    assert after["main", "alice"] == rotated != before["main", "alice"]
    assert after["main", "bob"] != before["main", "bob"]


def test_a_damaged_credential_is_named_and_its_seed_is_not(tmp_path: Path):
    keyring = Keyring(tmp_path / "credentials")
    keyring.ensure([("main", "alice")])
    path = keyring.path("alice", "main")
    seed = path.read_text().splitlines()[2]
    swapped = seed[:20] + ("A" if seed[20] != "A" else "B") + seed[21:]

    for damaged in (swapped, "nothing", ""):
        path.write_text(damaged)
        with pytest.raises(SettingsError) as refused:
            keyring.ensure([("main", "alice")])
        assert str(path) in str(refused.value)
        assert "SU" not in str(refused.value).replace("(SU…)", "")


def test_many_processes_that_make_one_credential_agree_on_it(tmp_path: Path):
    code = (
        "import sys; from pathlib import Path; from blackboard.access.keys import Keyring; "
        "print(Keyring(Path(sys.argv[1])).ensure([('main', 'alice')]).agents)"
    )
    makers = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "c")], stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    said = {maker.communicate(timeout=30)[0] for maker in makers}

    assert len(said) == 1
    assert {maker.returncode for maker in makers} == {0}
