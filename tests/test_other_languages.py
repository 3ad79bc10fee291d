"""Agents written from `schemas/` alone, in two languages, side by side with the library."""

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from blackboard import Agent, Blackboard, Memory
from blackboard.codec import canonical, decode_record
from blackboard.errors import GoneError, MakeFailedError, NotFoundError
from blackboard.jetstream import Start, follow
from blackboard.records import AuditBatch, HandlerRecord, RunRecord
from blackboard.subjects import audit_stream, audit_subject, derived_id
from tests.foreign_agents import LANGUAGES, Foreign, command, node_command, python_command, run
from tests.programs.kill_proxy import open_wire
from tests.waiting import wait_until


@pytest.fixture(params=LANGUAGES)
async def foreign(
    request: pytest.FixtureRequest, board: Blackboard, tmp_path: Path
) -> AsyncGenerator[Foreign]:
    """A foreign agent named `stranger` at the board."""
    started = command(request.param, "agent", tmp_path)
    async with run(started, board.url, board.name, "stranger") as agent:
        yield agent


async def stored(board: Blackboard, subject: str) -> list[Any]:
    """Every message that is on the board under a filter."""
    found: list[Any] = []
    log = board.log
    async with follow(log.connection, log.stream, subject, Start.all()) as follower:
        while follower.pending:
            message = await follower.step()
            if message is not None:
                found.append(message)
    return found


async def test_what_a_foreign_agent_puts_the_library_gets(
    board: Blackboard, foreign: Foreign
) -> None:
    put = await foreign.do(
        "put", topic="docs.a", content={"ü": [1, None]}, session="s1", tags={"lang": "de"}, ttl=60
    )

    memory = await board.get(put["ref"])

    assert memory.content == {"ü": [1, None]}
    assert (memory.agent, memory.session, memory.tags) == ("stranger", "s1", {"lang": "de"})
    assert memory.revision == put["revision"]
    assert memory.expires is not None
    assert memory.stored is not None
    assert 59 <= (memory.expires - memory.stored).total_seconds() <= 61


async def test_what_the_library_puts_a_foreign_agent_gets(
    board: Blackboard, foreign: Foreign
) -> None:
    ref = await board.put("docs.a", "first", session="s1")
    await board.revise(ref, "second")

    newest = await foreign.do("get", ref=str(ref))
    pinned = await foreign.do("get", ref=str(ref.pinned()))

    assert (newest["content"], newest["agent"], newest["session"]) == ("second", "alice", "s1")
    assert pinned["content"] == "first"


async def test_shared_state_is_revised_by_both_and_no_update_is_lost(
    board: Blackboard, foreign: Foreign
) -> None:
    async def theirs() -> None:
        for number in range(10):
            await foreign.do("put", topic="log", key=f"theirs-{number}", content=number)
            await foreign.do("put", topic="state.last", key="who", content="stranger")

    async def ours() -> None:
        for number in range(10):
            await board.put("log", number, key=f"ours-{number}")
            await board.put("state.last", "alice", key="who")

    async with anyio.create_task_group() as group:
        group.start_soon(theirs)
        group.start_soon(ours)

    revisions = await stored(board, "mem.main.*.*.state.last.who")
    assert len(revisions) == 20
    expected = [int(each.headers["Nats-Expected-Last-Subject-Sequence"]) for each in revisions]
    assert expected == [0, *(each.sequence for each in revisions[:-1])]


async def test_compare_and_set_holds_between_the_languages(
    board: Blackboard, foreign: Foreign
) -> None:
    ref = await board.put("state.plan", "a", key="main")
    await foreign.do("revise", ref=str(ref), content="b", expected=ref.written)

    late = await foreign.attempt("revise", ref=str(ref), content="c", expected=ref.written)
    create = await foreign.attempt("put", topic="state.plan", key="main", content=1, create=True)

    assert (late["error"], create["error"]) == ("Conflict", "Conflict")
    assert (await board.get(ref)).content == "b"


async def test_what_one_side_takes_back_is_gone_for_the_other(
    board: Blackboard, foreign: Foreign
) -> None:
    ref = await board.put("state.plan", "ours", key="ours")
    put = await foreign.do("put", topic="docs", content="theirs")
    await board.retire(ref)
    await foreign.do("retire", ref=put["ref"], reason="not right, äh")

    assert (await foreign.attempt("get", ref=str(ref)))["reason"] == "gone: retired"
    with pytest.raises(GoneError):
        await board.get(put["ref"])
    async with board.watch("docs", since="start") as memories:
        tombstone = await anext(memories)
    assert (tombstone.gone, tombstone.reason) == ("retired", "not right, äh")
    again = await foreign.do("put", topic="state.plan", key="ours", content="back", create=True)
    assert (await board.get(ref)).revision == again["revision"]


async def test_what_is_over_is_absent_on_both_sides(board: Blackboard, foreign: Foreign) -> None:
    put = await foreign.do("put", topic="docs", content="short", ttl=1)

    async def absent() -> bool:
        return (await foreign.attempt("get", ref=put["ref"])).get("reason") == "not found"

    await wait_until(absent, "the memory is over")
    with pytest.raises(NotFoundError):
        await board.get(put["ref"])


async def test_a_foreign_agent_watches_history_and_what_comes(
    board: Blackboard, foreign: Foreign
) -> None:
    kept = await board.put("docs.a", "kept")
    gone = await board.put("docs.b", "secret")
    await board.retire(gone)
    await board.put("other", "not this")

    await foreign.do("watch", pattern="docs.>", history=True)
    await foreign.event("memory", 2)
    await board.put("docs", "live")
    events = await foreign.event("memory", 3)

    seen = [(event["ref"], event["content"], event["gone"]) for event in events]
    assert seen[:2] == [(str(kept), "kept", None), (str(gone), None, "retired")]
    assert seen[2][1:] == ("live", None)
    assert "secret" not in str(foreign.events)


async def test_a_foreign_agent_skips_what_is_no_honest_memory(
    board: Blackboard, foreign: Foreign
) -> None:
    await foreign.do("watch", pattern="docs.>")
    forged = f"mem.main.shared.bob.docs.{'0' * 32}"
    await board.connection.publish(forged, b'{"content":"forged"}', headers={"Bb-Agent": "alice"})
    await board.put("docs.a", "honest")

    (memory,) = await foreign.event("memory")
    assert memory["content"] == "honest"
    assert len(await foreign.event("skipped")) == 1
    got = await foreign.attempt("get", ref=f"bob/docs/{'0' * 32}")
    assert got["error"] == "Refused"


async def test_a_foreign_handler_stores_output_and_record_in_one_batch_once(
    board: Blackboard, foreign: Foreign
) -> None:
    await foreign.do("handle", handler="shout", pattern="docs.>", to="loud")
    ref = await board.put("docs.a", "hello", session="s1", access="pii")
    (handled,) = await foreign.event("handled")

    (output,) = await stored(board, "mem.main.*.stranger.loud.*")
    _, message = await stored(board, "claim.main.shared.stranger.*")
    assert handled["outcome"] == "stored"
    assert message.sequence == output.sequence + 1
    record = decode_record(message.data, HandlerRecord)
    memory = await board.get(record.refs[0])
    assert (memory.content, memory.session, memory.access) == ("HELLO", "s1", "pii")
    assert (memory.sources, memory.hops) == ((ref.pinned(),), 1)
    assert memory.cause == record.cause == f"{ref.pinned()} stranger--shout v1 run1"
    # The trace goes on through an agent that makes no spans.
    assert memory.trace == (await board.get(ref)).trace is not None

    await board.revise(ref, "bye")
    await foreign.event("handled", 2)
    again = await board.get(record.refs[0])
    assert (again.content, again.revision > memory.revision) == ("BYE", True)
    assert len(await stored(board, "mem.main.*.stranger.loud.*")) == 2


async def test_a_foreign_handlers_output_follows_its_input_to_another_label(
    board: Blackboard, foreign: Foreign
) -> None:
    await foreign.do("handle", handler="shout", pattern="docs.>", to="loud")
    ref = await board.put("docs.a", "open")
    await foreign.event("handled")
    (output,) = await stored(board, "mem.main.shared.stranger.loud.*")
    await board.reclassify(ref, "pii")
    await board.revise(ref, "secret")
    handled = await foreign.event("handled", 4)

    outcomes = [event["outcome"] for event in handled]
    assert outcomes == ["stored", "unwanted", "done before", "stored"]
    memory = await board.get(f"stranger/loud/{output.subject.split('.')[-1]}")
    assert (memory.content, memory.access) == ("SECRET", "pii")
    before, moved = await stored(board, "mem.main.shared.stranger.loud.*")
    assert (before.sequence, moved.headers["Bb-Gone"]) == (output.sequence, "moved")
    assert b"SECRET" not in before.data + moved.data


async def test_a_foreign_handler_finds_what_was_done_before(
    board: Blackboard, foreign: Foreign
) -> None:
    await foreign.do("handle", handler="shout", pattern="docs.>", to="loud")
    await board.put("docs.a", "hello")
    await foreign.event("handled")
    # The same run delivers again, as it does when the acknowledgement was lost.
    connection, name = board.log.connection, "MEM_main.stranger--shout"
    before = msgspec.json.decode(await connection.api(f"CONSUMER.INFO.{name}"))["config"]
    await connection.api(f"CONSUMER.DELETE.{name}")
    again = {"stream_name": "MEM_main", "config": {**before, "deliver_policy": "all"}}
    await connection.api(f"CONSUMER.CREATE.{name}.{before['filter_subject']}", again)
    await foreign.do("handle", handler="shout", pattern="docs.>", to="loud")

    outcomes = [event["outcome"] for event in await foreign.event("handled", 2)]

    assert outcomes == ["stored", "done before"]
    assert len(await stored(board, "mem.main.*.stranger.loud.*")) == 1


async def test_a_foreign_handlers_new_run_handles_everything_anew(
    board: Blackboard, foreign: Foreign
) -> None:
    await foreign.do("handle", handler="shout", pattern="docs.>", to="loud")
    await board.put("docs.a", "hello")
    await foreign.event("handled")
    await board.log.connection.api("CONSUMER.DELETE.MEM_main.stranger--shout")
    await foreign.do("handle", handler="shout", pattern="docs.>", to="loud", start="all")

    outcomes = [event["outcome"] for event in await foreign.event("handled", 2)]

    assert outcomes == ["stored", "stored"]
    one, other = await stored(board, "mem.main.*.stranger.loud.*")
    assert one.subject == other.subject
    assert [each.headers["Bb-Cause"].split()[-1] for each in (one, other)] == ["run1", "run2"]
    runs = await stored(board, f"claim.main.shared.stranger.r-{derived_id(canonical(['shout']))}")
    assert [decode_record(each.data, RunRecord).run for each in runs] == [1, 2]
    # The same place with other settings is refused.
    other = await foreign.attempt("handle", handler="shout", pattern="other.>", to="loud")
    assert (other["error"], other["reason"]) == ("Refused", "its consumer has other settings")


async def test_large_content_goes_both_ways(board: Blackboard, foreign: Foreign) -> None:
    content = {"ä": "x" * 600_000, "y": [1, None]}
    ours = await board.put("docs.a", content, access="pii")
    theirs = await foreign.do("put", topic="docs.b", content=content, access="pii")

    read = await foreign.do("get", ref=str(ours))
    memory = await board.get(theirs["ref"])

    assert read["content"] == memory.content == content
    assert memory.blob is not None
    assert (memory.blob.chunks, memory.blob.agent) == (2, "stranger")


async def test_a_foreign_agent_answers_a_question_of_the_library(
    board: Blackboard, foreign: Foreign
) -> None:
    await foreign.do("handle", handler="reply", pattern="questions.>")

    answer = await board.ask("questions.billing", "why?", session="s1", timeout=10)

    assert answer.content == {"answer": "why?", "by": "stranger"}
    assert (answer.agent, answer.kind, answer.session) == ("stranger", "answer", "s1")
    assert answer.topic == "answers.questions.billing"
    assert len(answer.sources) == 1


async def test_the_library_answers_a_question_of_a_foreign_agent(
    board: Blackboard, foreign: Foreign
) -> None:
    helper = Agent("helper")

    @helper.answers("questions.billing")
    async def answer(question: Memory, board: Blackboard) -> str:
        return f"because of {question.content}"

    async with helper.running(board):
        answered = await foreign.do("ask", topic="questions.billing", content="rain")

    assert (answered["content"], answered["agent"]) == ("because of rain", "helper")


async def test_a_foreign_agent_serves_what_the_library_made(
    board: Blackboard, foreign: Foreign
) -> None:
    inputs = {"b": [1.0, None], "a": "ü"}
    result = await board.once("work", inputs, lambda: {"made": "here"}, version="2")

    reused = await foreign.do(
        "once", name="work", inputs=inputs, version="2", result="never", topic="uses", session="s2"
    )

    assert reused["key"] == str(result.ref)
    assert (reused["made"], reused["content"]) == (False, {"made": "here"})
    light = await board.get(reused["light"])
    assert (light.content, light.kind, light.session) == ({"made": "here"}, "reuse", "s2")
    assert light.content_of == result.pinned


async def test_the_library_serves_what_a_foreign_agent_made(
    board: Blackboard, foreign: Foreign
) -> None:
    inputs = [{"x": 1e21}, "€", 0.1]
    made = await foreign.do("once", name="work", inputs=inputs, result={"made": "there"})

    def never() -> None:
        raise AssertionError("it was made before")

    reused = await board.once("work", inputs, never, topic="uses")

    assert made["made"]
    assert (reused.kind, reused.content) == ("reuse", {"made": "there"})
    assert str(reused.content_of).startswith(made["key"])
    shown = await foreign.do("get", ref=str(reused.ref))
    assert shown["content"] == {"made": "there"}


async def test_an_error_reaches_those_who_wait_on_the_other_side(
    board: Blackboard, foreign: Foreign
) -> None:
    async with anyio.create_task_group() as group:

        async def theirs() -> None:
            failed = await foreign.attempt(
                "once", name="work", inputs=1, result=None, pause=0.5, fail="no luck"
            )
            assert failed["reason"] == "no luck"

        group.start_soon(theirs)
        await wait_until(lambda: _leases(board), "the foreign agent holds the lease")
        with pytest.raises(MakeFailedError, match="no luck"):
            await board.once("work", 1, lambda: "ours")

    assert (await board.once("work", 1, lambda: "again")).content == "again"


async def test_all_languages_race_and_one_result_is_stored(
    board: Blackboard, tmp_path: Path
) -> None:
    made_here = 0

    async def make() -> Memory:
        nonlocal made_here
        made_here += 1
        await anyio.sleep(0.05)
        return Memory(content="library")

    answers: list[dict[str, Any]] = []
    contents: list[Any] = []

    async def theirs(agent: Foreign, language: str, key: int) -> None:
        answers.append(
            await agent.do("once", name="race", inputs=key, result=language, pause=0.05, lease=2)
        )

    async def ours(key: int) -> None:
        contents.append((await board.once("race", key, make, lease=2)).content)

    python = run(python_command("agent"), board.url, "main", "snake")
    node = run(node_command("agent", tmp_path), board.url, "main", "script")
    async with python as snake, node as script, anyio.create_task_group() as group:
        for key in range(10):
            group.start_soon(theirs, snake, "python", key)
            group.start_soon(theirs, script, "javascript", key)
            group.start_soon(ours, key)

    results = await stored(board, "mem.main.*.*.once.race.*")
    assert len(results) == len({each.subject.split(".")[-1] for each in results}) == 10
    assert made_here + sum(answer["made"] for answer in answers) == 10
    for key in {answer["key"] for answer in answers}:
        content = (await board.get(key)).content
        assert {each["content"] for each in answers if each["key"] == key} == {content}
    assert len(answers) == 20
    assert len(contents) == 10


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("losing", ["answer", "request"])
async def test_a_foreign_write_without_an_answer_is_stored_once(
    board: Blackboard, tmp_path: Path, language: str, losing: str
) -> None:
    before = await board.put("state.plan", 1, key="main")
    started = command(language, "agent", tmp_path)
    async with open_wire(board.url) as wire, run(started, wire.url, "main", "stranger") as foreign:
        await foreign.do("get", ref=str(before))
        if losing == "answer":
            wire.lose_answer(b"Bb-Write")
        else:
            wire.lose_request(b"Bb-Write")
        revised: list[int] = []

        async def revise() -> None:
            done = await foreign.do("revise", ref=str(before), content=2, expected=before.written)
            revised.append(done["revision"])

        async with anyio.create_task_group() as group:
            group.start_soon(revise)
            await wire.seen.wait()
            await wire.cut()

    _, second = await stored(board, "mem.main.*.*.state.plan.main")
    assert revised == [second.sequence]
    assert second.headers["Bb-Agent"] == "stranger"


async def test_a_foreign_agents_reads_are_audited(board: Blackboard, foreign: Foreign) -> None:
    ref = await board.put("docs.a", "x")
    await foreign.do("get", ref=str(ref))
    seen: list[tuple[str, str, int | None]] = []

    async def audited() -> bool:
        seen.clear()
        connection = board.log.connection
        stream, subject = audit_stream("main"), audit_subject("main", "stranger")
        async with follow(connection, stream, subject, Start.all()) as follower:
            while follower.pending:
                message = await follower.step()
                if message is not None:
                    batch = decode_record(message.data, AuditBatch)
                    seen.extend((each.act, each.what, each.revision) for each in batch.events)
        return bool(seen)

    await wait_until(audited, "the read is on the audit stream")
    assert seen == [("get", str(ref), ref.written)]


async def _leases(board: Blackboard) -> list[Any]:
    return await stored(board, "claim.main.shared.stranger.*")
