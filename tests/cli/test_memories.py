import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from blackboard import Blackboard
from blackboard.codec import encode_record
from blackboard.jetstream import Outgoing
from blackboard.records import SpanBatch, SpanRecord
from tests.commands import (
    LIMIT_S,
    CommandLine,
    finished,
)
from tests.servers import Server

NO_ID = "alice/reports/0123456789abcdef0123456789abcdef"


# Memories


def test_what_is_put_can_be_got(cli: CommandLine):
    put = cli.ok(
        *("put", "reports.q3", '{"growth": 4}', "--tag", "region=emea", "--tag", "year=2026"),
        *("--kind", "report", "--session", "s1", "--user", "customer-42", "--ttl", "7d"),
        *("--priority", "0.9", "--access", "finance", "--agent", "alice"),
    )
    memory = cli.json("get", put.out.strip())

    assert put.out.startswith("alice/reports.q3/")
    assert put.out.strip() == f"{memory['ref']}@{memory['revision']}"
    assert memory["content"] == {"growth": 4}
    assert memory["tags"] == {"region": "emea", "year": "2026"}
    assert [
        memory[name] for name in ("kind", "session", "user", "priority", "access", "agent")
    ] == [*("report", "s1", "customer-42", 0.9, "finance", "alice")]
    left = datetime.fromisoformat(memory["expires"]) - datetime.now(UTC)
    assert timedelta(days=6, hours=23) < left <= timedelta(days=7)


@pytest.mark.parametrize(
    ("typed", "content"),
    [
        ("42", 42),
        ("-5", -5),
        ('"42"', "42"),
        ("[1, 2]", [1, 2]),
        ("null", None),
        ("", ""),
        ("hello world", "hello world"),
        ("- first item", "- first item"),
        ("{not json", "{not json"),
        ("ä€😀", "ä€😀"),
    ],
)
def test_content_is_json_where_it_is_valid(cli: CommandLine, typed: str, content: object):
    ref = cli.json("put", "notes", typed)["ref"]

    assert cli.json("get", ref)["content"] == content


def test_content_that_was_to_be_json_and_is_none_is_told(cli: CommandLine):
    mistyped = cli("put", "notes", '{"growth": }')
    meant = cli("put", "notes", "{x}", "--text")

    assert (mistyped.code, meant.code) == (0, 0)
    assert "stored as text, because it is no valid JSON" in mistyped.err
    assert meant.err == ""


def test_text_is_kept_as_it_is_on_request(cli: CommandLine):
    ref = cli.json("put", "notes", "42", "--text")["ref"]

    assert cli.json("get", ref)["content"] == "42"


def test_content_is_read_from_standard_input(cli: CommandLine):
    put = finished(cli.start("put", "notes", "-", stdin=subprocess.PIPE), "line 1\nline 2\n")

    assert put.code == 0
    assert cli.ok("get", put.out.strip()).out.endswith("\n\nline 1\nline 2\n\n")


def test_standard_input_that_is_no_text_is_refused(cli: CommandLine, tmp_path: Path):
    (tmp_path / "image").write_bytes(b"\xff\xd8\xff")
    with (tmp_path / "image").open() as image:
        done = finished(cli.start("put", "notes", "-", stdin=image))

    assert done.code == 2
    assert done.err.startswith("error: standard input is no UTF-8 text; ")


def test_shared_state_has_revisions_and_a_past(cli: CommandLine):
    first = cli.json("put", "state.mode", "slow", "--key", "mode", "--expected", 0)
    between = datetime.now(UTC)
    second = cli.json("put", "state.mode", "fast", "--key", "mode", "--expected", first["revision"])
    late = cli("put", "state.mode", "lost", "--key", "mode", "--expected", first["revision"])

    assert first["ref"] == second["ref"] == "*/state.mode/mode"
    assert cli.json("get", second["ref"])["content"] == "fast"
    assert cli.json("get", first["pinned"])["content"] == "slow"
    assert cli.json("get", first["ref"], "--at", between.isoformat())["content"] == "slow"
    assert cli.json("get", first["ref"], "--at", "0s")["content"] == "fast"
    assert late.code == 1
    assert "read it again and retry" in late.err


def test_a_memory_is_shown_with_its_sources(cli: CommandLine):
    source = cli.ok("put", "docs", "text").out.strip()
    ref = cli.ok("put", "summaries", '{"a": [1]}', "--source", source).out.strip()

    shown = cli.ok("get", ref).out

    assert shown.startswith(f"{ref}\nkind     note\nstored   20")
    assert f"\nsources  {source}\n" in shown
    assert shown.endswith('\n\n{\n  "a": [\n    1\n  ]\n}\n')


def test_control_characters_in_content_do_not_reach_the_terminal(cli: CommandLine):
    ref = cli.ok("put", "notes", "\x1b[2J\x9b31mred\x07\r").out.strip()

    for arguments in (("get", ref), ("watch", "notes", "--since", "start", "--limit", "1")):
        assert cli.ok(*arguments).out.count("\\x1b[2J\\x9b31mred\\x07") == 1


def test_a_field_with_line_breaks_does_not_pass_for_another_field(cli: CommandLine):
    ref = cli.ok("put", "notes", "hello", "--kind", "note\nagent   boss").out.strip()

    assert "kind    note\\nagent   boss\n" in cli.ok("get", ref).out


def test_watch_shows_history_and_tombstones(cli: CommandLine, server: Server):
    kept = cli.ok("put", "reports.a", "1").out.strip()
    with Blackboard.sync(server.url, agent="alice") as board:
        ref = board.put("reports.b", "secret")
        gone = board.retire(ref, "wrong number")

    plain = cli.ok("watch", "reports.>", "--since", "start", "--limit", "2").out.splitlines()
    tree = cli.ok("watch", "reports.>", "--since", "1h", "--limit", "2", "--json").lines

    assert plain[0].endswith(f"  {kept}  note  1")
    assert plain[1].endswith(f"  {gone.pinned()}  gone: retired (wrong number)")
    assert [one.get("gone") for one in tree] == [None, "retired"]
    assert tree[0]["content"] == 1


def test_watch_prints_each_memory_when_it_comes_and_ends_quietly(cli: CommandLine):
    cli.ok("put", "news", "old")
    watching = cli.start("watch", "news", "--since", "start", "--json")
    assert watching.stdout is not None
    try:
        first = json.loads(watching.stdout.readline())
        cli.ok("put", "news", "new")
        second = json.loads(watching.stdout.readline())
        watching.send_signal(signal.SIGINT)
        code = watching.wait(LIMIT_S)
    finally:
        done = finished(watching)

    assert [first["content"], second["content"]] == ["old", "new"]
    assert (code, done.err) == (130, "")


def test_a_reader_that_goes_away_ends_the_command_quietly(cli: CommandLine):
    for number in range(50):
        cli.ok("put", "news", str(number))
    watching = cli.start("watch", "news", "--since", "start")
    assert watching.stdout is not None
    assert watching.stdout.readline()
    watching.stdout.close()
    cli.ok("put", "news", "one more")
    assert watching.stderr is not None

    assert watching.wait(LIMIT_S) == 141
    assert watching.stderr.read() == ""
    watching.stderr.close()


def test_replay_ends_by_itself(cli: CommandLine):
    refs = [cli.json("put", "reports", str(number)) for number in range(4)]

    all_of_it = cli.ok("replay", "reports", "--json").lines
    part = cli.ok("replay", "reports", "--since", 2, "--until", 3, "--json").lines
    one = cli.ok("replay", "reports", "--limit", 1).out.splitlines()

    assert [memory["content"] for memory in all_of_it] == [0, 1, 2, 3]
    assert [memory["revision"] for memory in part] == [ref["revision"] for ref in refs[1:3]]
    assert len(one) == 1


# Looking at a board


@pytest.fixture
def made(server: Server) -> str:
    """A report that was made from a summary that two agents share; the report's reference."""
    with Blackboard.sync(server.url, agent="alice") as board:
        section = board.put("docs.section", "long text")
        for name in ("alice", "bob"):
            seat = board.sibling(agent=name)
            inputs = [seat.get(section)]
            seat.once("summary", inputs, lambda: "short", topic="docs.summary", session=name)
        summary = board.wait("docs.summary", session="bob")
        return str(board.put("docs.report", "all", sources=[summary]).pinned())


def test_topics_are_counted_with_their_agents(cli: CommandLine, made: str):
    found = {one["topic"]: one for one in cli.json("topics", "docs.>")}
    plain = cli.ok("topics").out.splitlines()

    assert made
    assert {topic: one["memories"] for topic, one in found.items()} == {
        "docs.section": 1,
        "docs.summary": 2,
        "docs.report": 1,
    }
    assert found["docs.summary"]["agents"] == {"alice": 1, "bob": 1}
    assert plain[0].split() == ["topic", "memories", "newest", "agents"]
    assert [line.split()[:2] for line in plain[1:]] == [
        *(["docs.report", "1"], ["docs.section", "1"], ["docs.summary", "2"], ["once.summary", "1"])
    ]


def test_memories_that_are_gone_are_not_counted(cli: CommandLine, server: Server):
    with Blackboard.sync(server.url, agent="alice") as board:
        board.retire(board.put("reports", "x"))
        board.put("state.mode", 1, key="mode")
        board.sibling(agent="bob").put("state.mode", 2, key="mode")

    assert [(one["topic"], one["memories"]) for one in cli.json("topics")] == [("state.mode", 1)]


def test_statistics_tell_what_sharing_saved(cli: CommandLine, made: str):
    counted = cli.json("stats")
    plain = cli.ok("stats").out

    assert made
    assert counted["memories"] == 5
    assert counted["kinds"] == {"note": 2, "result": 2, "reuse": 1}
    assert counted["once"]["results"] == counted["once"]["reuses"] == 1
    assert counted["once"]["made"]["calls"] == counted["once"]["saved"]["calls"] == 1
    assert counted["lost"] == {"audit_events": 0, "spans": 0}
    assert {one["stream"]: one["messages"] > 0 for one in counted["streams"]}["MEM_main"]
    assert ["once", "1", "results,", "1", "reuses"] in [line.split() for line in plain.splitlines()]


def test_the_audit_tells_who_read_what(cli: CommandLine, made: str):
    cli("get", NO_ID)
    reads = cli.ok("audit", "--act", "get", "--what", "docs.section", "--json").lines
    missed = cli.ok("audit", "--what", NO_ID).out.splitlines()
    nothing = cli.ok("audit", "--agent", "nobody").out.splitlines()

    assert made
    assert sorted(event["agent"] for event in reads) == ["alice", "bob"]
    assert missed[1].split()[1:] == ["cli", "get", NO_ID, "NotFoundError"]
    assert nothing == ["time  agent  act  what  outcome"]
    assert len(cli.ok("audit", "--limit", "1", "--json").lines) == 1


def test_a_trace_is_shown_by_its_number_or_by_a_memory(cli: CommandLine, made: str):
    identifier = cli.json("explain", made)["memory"]["trace"]

    by_memory = cli.ok("trace", made).out
    by_number = cli.ok("trace", identifier).out
    tree = cli.json("trace", identifier)

    assert by_memory == by_number
    assert by_memory.startswith(f"trace {identifier}: 1 span, 1 agent, 0 errors, ")
    assert (tree[0]["name"], tree[0]["agent"]) == ("create_memory", "alice")


def test_a_trace_that_lacks_spans_says_how_many_were_lost(cli: CommandLine, server: Server):
    trace = "a" * 32

    def span(trace: str, name: str, parent: str | None) -> SpanRecord:
        return SpanRecord(
            trace=trace,
            span=name * 16,
            parent=parent,
            name=name,
            kind="internal",
            start_ns=1,
            end_ns=2,
            agent="alice",
            instance="i",
        )

    child, whole = span(trace, "b", "c" * 16), span("d" * 32, "e", None)
    # Stored twice, as a batch is whose answer was lost: it counts once.
    body = encode_record(SpanBatch((child, whole), dropped=4))
    with Blackboard.sync(server.url, agent="alice") as board:
        for _ in range(2):
            message = Outgoing("spans.main.alice", body)
            board.run(lambda message=message: board.board.log.connection.publish(message))

    orphan, complete = cli.ok("trace", trace), cli.ok("trace", "d" * 32)

    assert "b [alice] (its parent is not on the board)" in orphan.out
    assert orphan.err == (
        "4 spans were lost in this time; those that are missing here may be among them\n"
    )
    assert complete.err == ""
    assert cli.json("stats")["lost"]["spans"] == 4


def test_a_trace_shows_the_traces_that_it_continues(cli: CommandLine, server: Server):
    with Blackboard.sync(server.url, agent="alice") as board:
        telemetry = board.board.telemetry
        headers: dict[str, str] = {}
        with telemetry.span("first"):
            telemetry.inject(headers)
        with telemetry.span("second", links=[headers["traceparent"]]):
            telemetry.inject(headers)

    tree = cli.json("trace", headers["traceparent"])

    assert [one["name"] for one in tree] == ["first"]
    assert [one["name"] for one in tree[0]["children"]] == ["second"]


def test_a_memory_is_explained(cli: CommandLine, made: str):
    plain = cli.ok("explain", made).out
    tree = cli.json("explain", made)

    summary = tree["memory"]["sources"][0]
    assert plain.startswith(f"{made}\nby  ")
    assert f"\nmade from\n  {summary['ref']} by bob" in plain
    assert f"\n    {summary['shows']['sources'][0]['ref']} by alice" in plain


def test_a_table_on_a_terminal_is_framed(
    cli: CommandLine, made: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    master, terminal = os.openpty()
    with os.fdopen(terminal, "w") as screen, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", screen)
        assert cli("topics").code == 0
        shown = os.read(master, 65536).decode()
    os.close(master)

    assert made
    assert "─" in shown
    assert "docs.summary" in shown
