"""Labels that the policy calls served: no read without a record, and none without a steward.

`pii` is served here, `shared` is not. `mallory` may read what she tries to read: what she is after
is to leave no trace.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from blackboard import Blackboard
from blackboard.access.identity import PREFIX
from blackboard.access.rights import Grant
from blackboard.errors import DeniedError, UnavailableError
from blackboard.jetstream import Start, follow
from blackboard.ledger.record import open_record
from tests.guarded import Guarded, Raw, agent
from tests.scene import bodies, guarded

OPEN, CASES, LETTERS = (
    Grant("shared", "docs.>"),
    Grant("pii", "cases.>"),
    Grant("pii", "letters.>"),
)
NOTES = Grant("pii", "notes.>")
PEOPLE = (
    agent("alice", read=[OPEN, CASES, LETTERS], write=[OPEN, CASES, LETTERS]),
    agent("mallory", read=[OPEN, CASES], write=[NOTES]),
    agent("otto", read=[Grant("*", "cases.>"), Grant("shared", "docs.>")]),
)
EVASIONS: tuple[dict[str, str], ...] = (
    {},
    {"Nats-Expected-Last-Sequence": "999999"},
    {"Nats-Expected-Last-Subject-Sequence": "999999"},
    {"Nats-Expected-Stream": "OTHER"},
    {"Nats-Expected-Last-Msg-Id": "x"},
    {"Nats-Rollup": "all"},
    {"Nats-TTL": "x"},
)


@pytest.fixture(scope="module")
async def broker(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Guarded]:
    folder = tmp_path_factory.mktemp("served")
    async with guarded(folder / "guarded", PEOPLE, served=["pii"]) as broker:
        yield broker


@pytest.fixture
async def alice(broker: Guarded) -> AsyncGenerator[Blackboard]:
    async with broker.board("alice") as board:
        yield board


@asynccontextmanager
async def without_steward(broker: Guarded) -> AsyncGenerator[None]:
    broker.end_stewards()
    try:
        yield
    finally:
        broker.start_steward()
        await broker.serving()


async def records_of(broker: Guarded, agent: str, ending: str) -> int:
    """How many items of the ledger say that an agent was served what ends so."""
    count = 0
    async with (
        broker.operator() as operator,
        follow(operator, "LEDGER_main", "ledger.main", Start.all()) as follower,
    ):
        while follower.pending and (message := await follower.step()) is not None:
            for item in open_record(message.data).items:
                said = getattr(item, "agent", "") == agent
                count += said and getattr(item, "what", "").endswith(ending)
    return count


async def evades(thief: Raw, subject: str, headers: dict[str, str]) -> bool:
    """Whether a direct get with headers of a write is answered."""
    where = f"{PREFIX}rd.main.{thief.me}.MEM_main.{subject}"
    answer = await thief.ask(where, headers=headers, timeout=1)
    return answer is not None and b"content" in answer.data


@pytest.mark.parametrize("steward", ["alive", "dead"])
async def test_a_get_with_headers_of_a_write_finds_no_way_to_a_served_label(
    broker: Guarded, alice: Blackboard, steward: str
) -> None:
    case = await alice.put("cases.1", "private", access="pii")
    result = await alice.once("summary", [case], lambda: "private too", version="1",
                              topic="cases.summary", access="pii")  # fmt: skip
    doc = await alice.put("docs.1", "open")

    async def attack() -> None:
        async with broker.raw("mallory") as thief, broker.raw("otto") as other:
            for raw in (thief, other):
                assert await evades(raw, f"mem.main.shared.*.docs.1.{doc.id}", {})  # its right
            for headers in EVASIONS:
                for raw, filters in (
                    (thief, ("pii.*.cases.1.*", f"pii.alice.cases.1.{case.id}", "pii.*.once.>",
                             "pii.*.cases.>", "pii.mallory.notes.>", "*.*.cases.>")),
                    (other, ("pii.*.cases.>", "*.*.cases.>", "shared.*.cases.>", "*.*.once.>")),
                ):  # fmt: skip
                    for one in filters:
                        assert not await evades(raw, f"mem.main.{one}", headers), (one, headers)
                assert await raw.get("claim.main.pii.*.>") is None

    assert result.content == "private too"
    if steward == "alive":
        await attack()
        return
    async with without_steward(broker):
        await attack()


async def test_a_served_label_is_read_within_the_rights_and_each_read_is_recorded(
    broker: Guarded, alice: Blackboard
) -> None:
    case = await alice.put("cases.2", "first", access="pii")
    then = (await alice.get(case)).stored
    await alice.revise(case, "second")
    state = await alice.put("cases.state", {"open": True}, key="two", access="pii")
    light = await alice.once("sum", [2], lambda: "made", version="1", topic="cases.sum",
                             access="pii")  # fmt: skip

    async with broker.board("mallory") as mallory:
        for count in (1, 2):
            assert (await mallory.get(case)).content == "second"
            assert await records_of(broker, "mallory", case.id) == count
        assert (await mallory.get(case, at=then)).content == "first"
        assert await records_of(broker, "mallory", case.id) >= 3
        assert (await mallory.get(state)).content == {"open": True}
        assert await records_of(broker, "mallory", "cases.state.two") == 1
        assert (await mallory.get(light.ref)).content == "made"
        assert light.content_of is not None
        assert await records_of(broker, "mallory", light.content_of.id) == 1
        async with mallory.view("cases.>") as view:
            assert "second" in [memory.content for memory in view.values()]
        async with mallory.watch("cases.3") as memories:
            await alice.put("cases.3", "live", access="pii")
            assert (await anext(aiter(memories))).content == "live"
        own = await mallory.put("notes.a", "mine", access="pii")
        assert (await mallory.get(own)).content == "mine"
        await mallory.revise(own, "mine too")
        assert (await mallory.get(own)).content == "mine too"
        assert await records_of(broker, "mallory", own.id) >= 2


async def test_a_served_label_is_closed_outside_the_rights(
    broker: Guarded, alice: Blackboard
) -> None:
    letter = await alice.put("letters.1", "private", access="pii")

    async with broker.board("mallory") as mallory, broker.board("otto") as otto:
        for board in (mallory, otto):
            with pytest.raises(DeniedError, match=r"letters\.1"):
                await board.get(letter)
            with pytest.raises(DeniedError, match=r"letters"):
                async with board.watch("letters.>"):
                    pass
    async with broker.raw("mallory") as thief:
        for verb, body in (
            (f"DIRECT.GET.MEM_main.mem.main.pii.*.letters.1.{letter.id}", None),
            ("STREAM.MSG.GET.MEM_main", {"seq": letter.revision}),
            ("DIRECT.GET.MEM_main", {"seq": letter.revision}),
        ):
            assert b"private" not in bodies(await thief.gate(verb, body)), verb


async def test_without_a_steward_a_served_label_is_closed_and_says_why(
    broker: Guarded, alice: Blackboard
) -> None:
    case = await alice.put("cases.4", "private", access="pii")
    doc = await alice.put("docs.4", "open")
    state = await alice.put("docs.state", 1, key="four")

    async with broker.board("mallory") as mallory, broker.board("otto") as otto:
        assert (await otto.get(case)).content == "private"
        async with without_steward(broker):
            for board in (mallory, otto):
                assert (await board.get(doc)).content == "open"
                assert (await board.get(state)).content == 1
                with pytest.raises(UnavailableError, match="no steward answers"):
                    await board.get(case)
        assert (await mallory.get(case)).content == "private"


async def test_a_label_that_becomes_served_is_read_on_without_a_break(
    broker: Guarded, alice: Blackboard
) -> None:
    doc = await alice.put("docs.5", "open")
    async with broker.board("mallory") as mallory, broker.raw("mallory") as thief:
        assert (await mallory.get(doc)).content == "open"
        assert await records_of(broker, "mallory", doc.id) <= 1
        broker.served = ["pii", "shared"]
        broker.reload()
        assert (await mallory.get(doc)).content == "open"  # the broker knows it before all others
        await broker.lay()

        assert (await mallory.get(doc)).content == "open"
        assert not await evades(thief, f"mem.main.shared.*.docs.5.{doc.id}", EVASIONS[1])
        broker.served = ["pii"]
        broker.reload()
        await broker.lay()
        assert (await mallory.get(doc)).content == "open"
