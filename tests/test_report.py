"""The data-subject report: all that is held about one person, nothing of another's, on record."""

import json
import resource
import stat
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import anyio
import jsonschema
import pytest

from blackboard import Agent, Blackboard, Memory
from blackboard.access.rights import Grant
from blackboard.codec import decode_record, encode_record
from blackboard.errors import DeniedError, InvalidError
from blackboard.jetstream import Outgoing
from blackboard.journal import read_audit
from blackboard.ledger.about import About
from blackboard.records import AuditBatch, AuditEvent
from blackboard.report import Report, gathered, write_page, write_tree
from blackboard.schemas import schema_of
from blackboard.subjects import audit_subject
from tests.children import Child
from tests.commands import Done, finished, start
from tests.forgetting import Steward
from tests.guarded import agent
from tests.scene import guarded
from tests.servers import Server
from tests.waiting import wait_until

MINE = (
    "planted-first",
    "planted-second",
    "planted-large",
    "planted-state",
    "planted-back",
    "planted-result",
    "planted-derived",
    "planted-summary",
    "planted-tag",
    "planted-trouble",
)
OTHERS = ("foreign-case", "foreign-state", "foreign-derived", "foreign-mixed")
MARKUP = (
    '</script><script>alert(1)</script><img src="//x.test/y" onerror=z> &amp; \u202egnp.exe\x07'
)


class Seen(HTMLParser):
    """What a browser would see: text, tags, and what would be loaded."""

    VOID = frozenset({"meta", "br", "img", "link", "input"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.loads: list[str] = []
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in self.VOID:
            self._open.append(tag)
        self.loads += [str(value) for name, value in attrs if name in ("src", "srcset", "href")]
        assert not [name for name, _ in attrs if name.startswith("on")]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self._open or self._open[-1] != "style":
            self.text += data


async def furnish(board: Blackboard) -> dict[str, Any]:
    """One of everything about u1, and about u2 beside it; gives references."""
    first = await board.put(
        "cases", {"says": "planted-first"}, user="u1", tags={"note": "planted-tag"}, session="s1"
    )
    await board.revise(first, {"says": "planted-second", "markup": MARKUP})
    large = await board.put("cases.large", ["planted-large", *["x" * 100] * 5_000], user="u1")
    await board.put("state.now", "planted-state", key="k", user="u1")
    back = await board.put("cases", "planted-back", user="u1")
    await board.retire(back, "said in error")
    await board.put("cases", "for a while", user="u1", ttl=timedelta(hours=1))
    await board.once("look", await board.get(first), lambda: "planted-result", topic="notes")
    derived = await board.put("notes", "planted-derived", sources=[first])
    await board.put("notes", "planted-summary", sources=[derived])

    other = await board.put("cases", "foreign-case", user="u2")
    await board.put("state.now", "foreign-state", key="k", user="u2")
    await board.put("notes", "foreign-derived", sources=[first], user="u2")
    await board.put("notes", "foreign-mixed", sources=[first, other])
    await board.put("notes", "sunfish")
    return {"first": first, "large": large, "derived": derived, "back": back}


async def made(board: Blackboard, user: str = "u1") -> tuple[Report, Any, str]:
    """A report: read back, as plain JSON, and as a page."""
    tree, page = BytesIO(), BytesIO()
    async with gathered(board, user) as report:
        write_tree(report, tree)
        write_page(report, page)
    return (
        decode_record(tree.getvalue(), Report),
        json.loads(tree.getvalue()),
        page.getvalue().decode(),
    )


@pytest.fixture
async def alice(server: Server) -> AsyncGenerator[Blackboard]:
    async with Blackboard.open(server.url, board="b", agent="alice") as board:
        yield board


async def run(server: Server, *arguments: object, **options: Any) -> Done:
    """The command, as a process of its own."""
    process = start("report", *arguments, "--board", "b", "--url", server.url, **options)
    return await anyio.to_thread.run_sync(finished, process)


async def test_all_of_one_person_and_nothing_of_another(alice: Blackboard):
    refs = await furnish(alice)
    clerk = Agent("clerk")

    @clerk.on("cases.large")
    async def read_it(_: Memory, __: Blackboard) -> str:
        raise InvalidError("planted-trouble")

    async with clerk.running(alice):
        await alice.put("cases.large", "unread", user="u1")
        async with alice.watch("cases.>", since="start") as memories:
            async for memory in memories:
                if memory.content == "unread":
                    break

        async def buried() -> bool:
            info = await alice.session.connection.stream("DEAD_b")
            return info is not None and info.state.messages > 0

        await wait_until(buried, "the handler gave up")
    await alice.get(refs["first"])
    await alice.journal.flush()

    report, tree, page = await made(alice)

    jsonschema.Draft202012Validator(schema_of("report")).validate(tree)  # pyright: ignore[reportUnknownMemberType]
    text = json.dumps(tree)
    seen = Seen(page)
    for word in MINE:
        assert word in text, word
        assert word in seen.text, word
    for word in OTHERS:
        assert word not in text, word
        assert word not in page, word
    assert "sunfish" not in text + page
    summary = report.summary
    assert (summary.memories, summary.states["retired"]) == (6, 1)
    assert summary.topics == {"cases": 3, "cases.large": 2, "state.now": 1}
    because = {
        held.revisions[0].body and held.revisions[0].body.content: held.because
        for held in report.derived
    }
    assert because["planted-derived"] == f"made from {refs['first']}"
    assert because["planted-summary"] == f"made from {refs['derived']}"
    withheld = [
        one.withheld
        for held in (*report.memories, *report.derived)
        for one in held.revisions
        if one.withheld
    ]
    assert len(withheld) == 3
    assert report.ledger is None
    assert "no ledger" in seen.text
    reads = {(one.agent, one.act): one.times for one in summary.readers}
    assert reads["alice", "get"] >= 1
    assert [one.what for one in report.noted if one.text] == ["failed"]


async def test_what_is_hostile_or_huge_is_text_and_cut(alice: Blackboard):
    await furnish(alice)
    await alice.put(f"t.{'x' * 60}", MARKUP, user="u1", session=MARKUP, tags={MARKUP: MARKUP})
    for _ in range(2):
        await alice.put("huge", "y" * 2_000_000, user="u1", text=MARKUP * 1_000)

    report, tree, page = await made(alice)
    seen = Seen(page)

    assert {"script", "img", "iframe", "link"}.isdisjoint(seen.tags)
    assert all(one.startswith("#") for one in seen.loads)
    assert "\u202e" not in page
    assert "\x07" not in page
    assert "\\u202egnp.exe\\x07" in seen.text
    assert len(page) < 200_000
    place = next(n for n, held in enumerate(report.memories) if held.ref.topic == "huge")
    pointer = f"/memories/{place}/revisions/0/body/content"
    assert f"1.9 MiB. All of it is in report.json at {pointer}" in seen.text
    value: Any = tree
    for step in pointer.split("/")[1:]:
        value = value[int(step) if step.isdecimal() else step]
    assert value == "y" * 2_000_000


async def test_a_report_is_on_record_private_and_known_as_a_copy(
    alice: Blackboard, server: Server, steward: Steward, tmp_path: Path
):
    await furnish(alice)
    out = tmp_path / "out"

    done = await run(server, "u1", "--out", out)

    assert done.code == 0, done
    assert "5 in " in done.out
    for path in (out / "report.html", out / "report.json"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert {path.name for path in out.iterdir()} == {"report.html", "report.json"}
    assert Seen((out / "report.html").read_text()).text.count("u1")
    again = await run(server, "u1", "--json")
    acts = {(one["agent"], one["act"]) for one in again.json["accesses"]}
    assert ("cli", "report") in acts
    assert any(str(out) in copy for copy in again.json["copies"])
    audit = start(
        "audit", "--user", "u1", "--act", "report", "--json", "--board", "b", "--url", server.url
    )
    rows = (await anyio.to_thread.run_sync(finished, audit)).lines
    assert [row["what"] for row in rows] == [About(user="u1").name] * 2
    # The name of the person is nowhere in it, so that it can be forgotten.
    assert "u1" not in str(rows)

    receipt = await alice.forget(user="u1")
    assert [copy for copy in receipt.elsewhere if str(out) in copy]
    after, _, page = await made(alice)
    assert after.summary.memories == 0
    assert [one.order for one in after.forgotten] == [receipt.order]
    assert receipt.order in page
    for word in (*MINE, *OTHERS):
        assert word not in page


async def test_bad_input_and_nobody(alice: Blackboard, server: Server, tmp_path: Path):
    await furnish(alice)
    (tmp_path / "file").write_text("x")
    for arguments, code, words in (
        (("nobody",), 1, "holds nothing about 'nobody'"),
        ((" ",), 2, "name the person"),
        (("x" * 2_000,), 2, "a name of 2000 bytes"),
        (("u1", "--out", tmp_path / "file"), 2, "cannot make the directory"),
        (("u1", "--html", tmp_path / "none" / "x.html"), 2, "cannot write"),
        (("u1", "--out", tmp_path / "o", "--html", tmp_path / "h"), 2, "give one of"),
    ):
        failed = await run(server, *arguments)
        assert (failed.code, words in failed.err) == (code, True), failed
        assert failed.err.count("\n") == 1
    assert not [path for path in tmp_path.rglob("*report*") if path.is_file()]  # noqa: ASYNC240


async def test_a_full_disk_leaves_no_half_report(alice: Blackboard, server: Server, tmp_path: Path):
    await furnish(alice)
    out = tmp_path / "out"
    limit = 100_000

    failed = await run(
        server,
        "u1",
        "--out",
        out,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )

    assert failed.code == 2, failed
    assert "make room" in failed.err
    assert list(out.glob("*")) == list(out.glob(".*")) == []


async def test_hostile_events_of_the_audit_do_not_stop_a_report(alice: Blackboard):
    ref = (await furnish(alice))["first"]
    for at, count in (
        (datetime(1, 1, 1, tzinfo=UTC), 2**62),
        (datetime(9999, 12, 31, tzinfo=UTC), 2**62),
        (datetime(2026, 1, 1), 1),  # noqa: DTZ001 - that is the point
    ):
        event = AuditEvent(at=at, agent="eve", instance="i", act="get", what=str(ref), count=count)
        body = encode_record(AuditBatch((event,)))
        await alice.session.connection.publish(Outgoing(audit_subject("b", "eve"), body))

    report, _, _ = await made(alice)

    assert sum(one.agent == "eve" for one in report.accesses) == 2
    assert not read_audit("audit.b.eve", body).events


async def test_a_report_reaches_to_where_the_board_ended_while_eight_write(
    alice: Blackboard, server: Server, tmp_path: Path
):
    await alice.put("cases", "planted", user="u1")
    options = {"url": server.url, "board": "b"}
    writers = [
        Child("subject_writer", tmp_path, f"w{n}", {**options, "agent": f"w{n}"}) for n in range(8)
    ]
    try:
        for child in writers:
            await child.until(lambda said: said, "it writes")
        reports = [await made(alice) for _ in range(3)]
        assert all(child.running for child in writers)
    finally:
        for child in writers:
            child.kill()
    lasts = [report.last for report, _, _ in reports]
    assert lasts == sorted(set(lasts))
    for report, _, page in reports:
        sequences = [one.revision for held in report.memories for one in held.revisions]
        assert sequences == sorted(sequences)
        assert max(sequences) <= report.last
        assert report.summary.revisions == len(sequences)
        assert f"{len(report.memories):,}" in page


async def test_on_a_board_with_credentials_operators_only_and_reads_are_proved(tmp_path: Path):
    cases = Grant("shared", "cases.>")
    rights = [agent("alice", read=[cases], write=[cases]), agent("bob", read=[cases])]
    async with guarded(tmp_path / "guarded", rights) as broker:
        async with broker.board("alice") as alice, broker.board("bob") as bob:
            ref = await alice.put("cases", "planted-first", user="u1")
            await alice.put("cases", "foreign-case", user="u2")
            assert (await bob.get(ref)).content == "planted-first"
            with pytest.raises(DeniedError, match="operator's credential"):
                async with gathered(alice, "u1"):
                    pass
        async with broker.board("cli") as operator:

            async def proved() -> bool:
                report, _, _ = await made(operator)
                return ("bob", "broker", "get") in {
                    (one.agent, one.source, one.act) for one in report.accesses
                }

            await wait_until(proved, "the read is in the ledger", 20)
            report, _, page = await made(operator)
    assert report.ledger is not None
    assert not report.ledger.findings
    assert "whole and unaltered" in Seen(page).text
    assert "foreign-case" not in page
