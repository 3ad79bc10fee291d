"""`blackboard audit` on a board with credentials: two accounts merged, proved and reported."""

from collections.abc import Callable
from html.parser import HTMLParser

import pytest
from anyio.to_thread import run_sync

from blackboard import clock
from blackboard.codec import encode_record
from blackboard.jetstream import Outgoing
from blackboard.ledger import Denied, Follow, Privileged, Served
from blackboard.ledger.history import Access
from blackboard.ledger.page import render
from blackboard.records import AuditBatch, AuditEvent
from blackboard.subjects import Ref
from tests.commands import CommandLine, Done
from tests.credentials import BOARD
from tests.ledger_bench import Bench, read_from
from tests.waiting import wait_until

ID = "a" * 32
REF = f"bob/docs.a/{ID}"
Run = Callable[..., Done]


@pytest.fixture
async def history(bench: Bench) -> Bench:
    """Alice read one memory twice and was sent it; Carol was denied; Bob's other one is unread."""
    async with bench.agent("bob") as bob, bench.agent("alice") as alice, bench.kept() as ledger:
        config = {
            "name": "follow-1",
            "ack_policy": "none",
            "filter_subject": f"mem.{BOARD}.shared.*.docs.>",
            "deliver_policy": "all",
            "inactive_threshold": 600_000_000_000,
            "deliver_subject": f"_INBOX.{BOARD}.alice.x",
            "metadata": {"blackboard-agent": "alice"},
        }
        received: list[bytes] = []

        async def take(_: object) -> None:
            received.append(b"")

        await alice.client.subscribe(f"_INBOX.{BOARD}.alice.x", cb=take)  # pyright: ignore[reportUnknownMemberType]
        await alice.client.flush()
        body = {"stream_name": f"MEM_{BOARD}", "config": config}
        await ledger.noted(
            Follow(
                agent="alice",
                stream=f"MEM_{BOARD}",
                consumer="follow-1",
                filters=(f"mem.{BOARD}.shared.*.docs.>",),
                start="all",
            )
        )
        await bench.operator.api(f"CONSUMER.CREATE.MEM_{BOARD}.follow-1", body)
        subject = f"mem.{BOARD}.shared.bob.docs.a.{ID}"
        await bob.publish(
            Outgoing(subject, b'{"content": 1, "user": "customer-42"}', {"Bb-Agent": "bob"})
        )
        await bench.put(bob, "bob", "notes", "b" * 32)
        await wait_until(lambda: received, "it was sent")
        for _ in range(2):
            await alice.request(read_from("alice", "docs.a"))
        await alice.request(read_from("alice", "notes", "b" * 32))
        event = AuditEvent(at=clock.now(), agent="alice", instance="i", act="get", what=REF)
        await alice.publish(Outgoing(f"audit.{BOARD}.alice", encode_record(AuditBatch((event,)))))
        await ledger.noted(Served(agent="alice", verb="recall", what="docs.>", user="customer-42"))
        ledger.note(Denied(agent="carol", act="DIRECT.GET", what=f"mem.{BOARD}.pii.*.docs.>"))
        await ledger.noted(Privileged(agent="cli", act="forget", what=REF))

        async def all_there() -> bool:
            return await bench.reads() == 3 and "journal" in str(await bench.items()).lower()

        await wait_until(all_there, "all reads are in the chain")
        await wait_until(lambda: _sent(bench), "the chain says what was sent")
    return bench


async def _sent(bench: Bench) -> bool:
    return "Delivered(" in str(await bench.items())


@pytest.fixture
def run(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> CommandLine:
    monkeypatch.setenv("BLACKBOARD_CREDENTIALS", str(bench.people.path("cli")))
    monkeypatch.setenv("BLACKBOARD_DATA", str(bench.folder))
    monkeypatch.setenv("BLACKBOARD_BOARD", BOARD)
    return CommandLine(capsys, bench.server.url)


async def test_the_broker_the_steward_and_the_agent_itself_are_told_apart(
    history: Bench, run: CommandLine
) -> None:
    rows = (await run_sync(run.ok, "audit", "--memory", REF, "--json")).lines

    said = sorted((row["source"], row["agent"], row["act"], row.get("count", 1)) for row in rows)
    assert ("broker", "alice", "delivered", 1) in said
    assert ("itself", "alice", "get", 1) in said
    assert ("steward", "alice", "recall", 1) in said
    assert ("steward", "cli", "forget", 1) in said
    assert (
        sum(row.get("count", 1) for row in rows if (row["source"], row["act"]) == ("broker", "get"))
        == 2
    )
    assert {
        row.get("revision") for row in rows if row["act"] == "get" and row["source"] == "broker"
    } == {1}


async def test_one_searches_by_agent_topic_user_time_and_denial(
    history: Bench, run: CommandLine
) -> None:
    async def rows(*arguments: str) -> list[tuple[str, str]]:
        done = await run_sync(run.ok, "audit", *arguments, "--json")
        return [(row["agent"], row["act"]) for row in done.lines]

    assert await rows("--agent", "carol") == [("carol", "DIRECT.GET")]
    assert await rows("--denied") == [("carol", "DIRECT.GET")]
    assert await rows("--topic", "notes") == [("alice", "get")]
    assert ("carol", "DIRECT.GET") in await rows("--topic", "docs.>")
    assert ("alice", "delivered") in await rows("--user", "customer-42")
    assert await rows("--user", "nobody") == []
    assert await rows("--until", "1h") == []
    assert await rows("--since", "1h", "--act", "recall") == [("alice", "recall")]
    text = (await run_sync(run.ok, "audit")).out
    assert "broker" in text
    assert "itself" in text


async def test_verify_says_what_is_wrong_and_fails(history: Bench, run: CommandLine) -> None:
    receipt = history.folder / "mine.json"
    proved = await run_sync(run.ok, "audit", "verify", "--receipt", receipt)
    assert "verified  nothing was removed or altered" in proved.out
    assert receipt.exists()
    await history.operator.delete(f"LEDGER_{BOARD}", 2)

    wrong = await run_sync(run, "audit", "verify", "--receipt", receipt)

    assert wrong.code == 1
    assert "WRONG     record 2: removed: record 1 is followed by 3" in wrong.out


async def test_a_report_is_text_json_or_a_page(history: Bench, run: CommandLine) -> None:
    text = (await run_sync(run.ok, "audit", "report", "--memory", REF)).out
    tree = (await run_sync(run.ok, "audit", "report", "--user", "customer-42", "--json")).json
    page = (await run_sync(run.ok, "audit", "report", "--memory", REF, "--html")).out

    assert "proved" in text
    assert tree["ledger"]["findings"] == []
    assert [one["ref"] for one in tree["revisions"]] == [REF]
    assert {row["act"] for row in tree["accesses"]} >= {"get", "delivered", "recall"}
    parser = _Page()
    parser.feed(page)
    assert parser.links == []
    assert "is whole and unaltered" in page


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "img", "link") or any(name in ("src", "href") for name, _ in attrs):
            self.links.append(tag)


def test_what_others_wrote_cannot_become_markup() -> None:
    row = Access(at=clock.now(), source="broker", agent="<script>", act="get", what='"><img src=x>')
    page = render("b", "<b>x</b>", [], [row], None)

    assert "<script>" not in page
    assert "<img" not in page
    assert "<b>x" not in page


def test_a_board_without_credentials_says_that_it_has_no_ledger(cli: CommandLine) -> None:
    cli.ok("put", "docs", "1")
    done = cli("audit", "verify")

    assert done.code == 1
    assert "has no ledger, because its broker has no credentials" in done.err
    reference = cli.ok("put", "docs", "2").out.strip()
    cli.ok("get", reference)
    rows = cli.ok("audit", "report", "--memory", str(Ref.parse(reference).unpinned)).out
    assert "this is what the agents say of themselves" in rows
    assert "get" in rows
