"""The checker itself, on histories made by hand: right ones pass, each kind of wrong is told."""

from typing import Any

import msgspec
import pytest

from tests.faults.checker import check
from tests.faults.history import NEVER, History, Op, Reading, Stored

R1 = "*/load.register/r1"
COUNT = "*/load.count/n"


def op(do: str, begin: int, end: int = NEVER, outcome: str = "ok", **facts: Any) -> Op:
    worker = facts.pop("worker", "w0")
    told = {"worker": worker, "number": begin, "do": do, "begin": begin, "end": end}
    return msgspec.convert(told | {"outcome": outcome} | facts, Op)


def stored(revision: int, topic: str, value: str, ref: str = "", **content: Any) -> Stored:
    session = content.pop("session", None)
    return Stored(
        revision=revision,
        ref=ref or f"a/{topic}/{revision:032x}",
        topic=topic,
        content={"v": value, **content},
        session=session,
    )


def result(revision: int, value: str, key: int) -> Stored:
    return stored(revision, "once.work", value, f"*/once.work/k{key}", key=key)


BOARD = [
    stored(1, "load.new", "a"),
    stored(2, "load.register", "b", R1, base=0),
    stored(3, "load.many", "c"),
    stored(4, "load.many", "d"),
    stored(5, "load.register", "e", R1, base=2),
    stored(6, "load.count", "f", COUNT, base=0, n=1),
    stored(7, "load.count", "g", COUNT, base=6, n=2),
    result(8, "run", 0),
    stored(9, "shown", "run", key=0),
    stored(10, "in.x", "h"),
    stored(11, "out.first", "h", call="1"),
    stored(12, "out.second", "h", call="1"),
    stored(13, "out.third", "h", call="1"),
    stored(14, "parts.x", "i", session="s"),
    stored(15, "parts.x", "j", session="s"),
    stored(16, "parts.x", "k", session="s"),
    stored(17, "whole", "s", parts=["i", "j", "k"]),
    stored(18, "parts.x", "l", session="t"),
]
OPS = [
    op("put", 0, 10, values=["a"], revisions=[1], ref=BOARD[0].ref),
    op("put", 11, 20, values=["b"], revisions=[2], ref=R1, expected=0),
    op("put_many", 21, 30, values=["c", "d"], revisions=[3, 4]),
    op("revise", 31, 40, values=["e"], revisions=[5], ref=R1, expected=2),
    op("revise", 32, 42, "conflict", values=["x"], ref=R1, expected=2, worker="w1"),
    op("update", 41, outcome="unknown", values=["f"], ref=COUNT),
    op("update", 51, 60, values=["g"], revisions=[7], ref=COUNT),
    op("get", 33, 38, values=["b"], revisions=[2], ref=R1),
    op("get", 61, 70, values=["e"], revisions=[5], ref=R1),
    op("once", 71, 80, values=["run"], revisions=[8], ref="*/once.work/k0", key=0),
    op("once", 72, 81, values=["run"], revisions=[9], ref=BOARD[8].ref, key=0),
    op("put", 82, 83, values=["h"], revisions=[10]),
    *(op("put", 84 + 2 * n, 85 + 2 * n, values=["ijkl"[n]]) for n in range(4)),
    op("put", 95, 99, "refused", values=["y"]),
    op("get", 96, 97, "absent", ref="*/load.register/r2"),
]
LOAD = [(one.revision, one.value) for one in BOARD if one.topic.startswith("load.")]
NEWEST = {one.ref: one.revision for one in BOARD if one.topic.startswith("load.")}


def history(*more: Op, without: int | None = None, **facts: Any) -> History:
    ops = [one for number, one in enumerate(OPS) if number != without]
    return History([*ops, *more], **facts)


def reading(seen: list[tuple[int, str]], since: str = "start", *, ended: bool = True) -> Reading:
    return Reading(worker="r0", since=since, ready=25, seen=seen, ended=ended)


def replaced(number: int, **facts: Any) -> list[Stored]:
    """The board with other facts in one revision."""
    board = list(BOARD)
    board[number] = msgspec.structs.replace(board[number], **facts)
    return board


def test_a_right_history_passes():
    whole = history(
        readings=[
            reading(LOAD),
            reading(LOAD[:3], ended=False),
            reading(LOAD[3:], "now"),
            reading([], "now", ended=False),
        ],
        views={"r0": NEWEST},
    )

    assert check(whole, BOARD, replicated=False) == []
    assert check(whole, BOARD, replicated=True) == []


def test_a_watcher_that_began_after_the_last_write_has_nothing_to_see():
    late = msgspec.structs.replace(reading([], "now"), ready=500)

    assert check(history(readings=[late]), BOARD, replicated=False) == []


NEW = stored(19, "load.new", "z")
WRONG: dict[str, tuple[History, list[Stored], str]] = {
    "an acknowledged write is lost": (history(), BOARD[1:], "acknowledged and lost: a"),
    "a batch loses one": (history(), BOARD[:3] + BOARD[4:], "a batch of 2 is stored as [3]"),
    "a batch is torn apart": (
        history(op("put", 22, 24, values=["z"], revisions=[4])),
        [*BOARD[:3], stored(4, "load.new", "z"), stored(5, "load.many", "d"), *BOARD[5:]],
        "a batch of 2 is stored as [3, 5]",
    ),
    "a write is stored twice": (history(), [*BOARD, stored(19, "load.new", "a")], "2 times"),
    "a write is acknowledged as another revision": (
        history(op("put", 100, 101, values=["z"], revisions=[20])),
        [*BOARD, NEW],
        "was acknowledged as 20 and is 19",
    ),
    "a refused write is stored": (
        history(),
        [*BOARD, stored(19, "load.new", "y")],
        "refused and stored: y",
    ),
    "something is stored that nobody wrote": (history(), [*BOARD, NEW], "nobody wrote z"),
    "revisions are out of order": (
        history(
            op("put", 100, 101, values=["late"], revisions=[20]),
            op("put", 102, 103, values=["z"], revisions=[19]),
        ),
        [*BOARD, NEW, stored(20, "load.new", "late")],
        "revision 19 came after 20 was acknowledged",
    ),
    "an unknown write takes effect before it was called": (
        history(op("put", 5_000, outcome="unknown", values=["z"])),
        [stored(0, "load.new", "z"), *BOARD],
        "revision 0 came after",
    ),
    "two revisions replace the same one": (
        history(),
        replaced(4, content={"v": "e", "base": 0}),
        "revision 5 replaced 2, not 0",
    ),
    "an increment is lost": (
        history(),
        replaced(6, content={"v": "g", "base": 6, "n": 1}),
        "an increment is lost",
    ),
    "a conflict is with nobody": (
        history(op("revise", 100, 101, "conflict", values=["z"], ref=R1, expected=5)),
        BOARD,
        "a conflict with nobody, expected 5",
    ),
    "a read is older than what was acknowledged": (
        history(op("get", 100, 101, values=["b"], revisions=[2], ref=R1)),
        BOARD,
        "revision 2 was read after 5 was known",
    ),
    "a read shows what was never there": (
        history(op("get", 100, 101, values=["z"], revisions=[5], ref=R1)),
        BOARD,
        "was read as z, and is e",
    ),
    "a read comes before the write": (
        history(op("get", 22, 23, values=["e"], revisions=[5], ref=R1)),
        BOARD,
        "was read before it was written",
    ),
    "nothing is found of what was acknowledged": (
        history(op("get", 100, 101, "absent", ref=R1)),
        BOARD,
        "nothing found though 5 was acknowledged",
    ),
    "two results of one piece": (history(), [*BOARD, result(19, "other", 0)], "2 results"),
    "one caller is served with something else": (
        history(op("once", 100, 101, values=["other"], revisions=[8], ref="*/once.x/y", key=0)),
        BOARD,
        "served was other",
    ),
    "a light memory is lost": (history(), BOARD[:8] + BOARD[9:], "the light memory"),
    "an input has no outputs": (history(), BOARD[:10] + BOARD[13:], "has the outputs []"),
    "an output is there twice": (
        history(),
        [*BOARD, stored(19, "out.first", "h", call="1")],
        "has the outputs ['out.first', 'out.first'",
    ),
    "outputs are of two runs": (
        history(),
        replaced(11, content={"v": "h", "call": "2"}),
        "are of different runs",
    ),
    "outputs come from nowhere": (
        history(),
        [*BOARD, stored(19, "out.first", "z", call="1")],
        "outputs without an input: z",
    ),
    "a group is merged twice": (
        history(),
        [*BOARD, stored(19, "whole", "s", parts=["i", "j", "k"])],
        "was merged as [['i', 'j', 'k'], ['i', 'j', 'k']]",
    ),
    "a group is merged without a part": (
        history(),
        replaced(16, content={"v": "s", "parts": ["i", "j", "j"]}),
        "was merged as [['i', 'j', 'j']]",
    ),
    "a group is not merged": (history(), BOARD[:16] + BOARD[17:], "was merged as []"),
    "an incomplete group is merged": (
        history(),
        [*BOARD, stored(19, "whole", "t", parts=["l"])],
        "was merged as [['l']]",
    ),
    "a watcher misses one": (
        history(readings=[reading(LOAD[:2] + LOAD[3:])]),
        BOARD,
        "missed (3, 'c')",
    ),
    "a watcher misses the last": (history(readings=[reading(LOAD[:-1])]), BOARD, "missed (7"),
    "a live watcher misses its first": (
        history(readings=[reading(LOAD[5:], "now")]),
        BOARD,
        "missed (5, 'e')",
    ),
    "a killed watcher had missed one": (
        history(readings=[reading([LOAD[0], LOAD[2]], ended=False)]),
        BOARD,
        "missed (2, 'b')",
    ),
    "a watcher sees one twice": (
        history(readings=[reading([LOAD[0], *LOAD])]),
        BOARD,
        "was shown 1 right after 1",
    ),
    "a watcher sees them out of order": (
        history(readings=[reading([LOAD[1], LOAD[0], *LOAD[2:]])]),
        BOARD,
        "was shown 1 right after 2",
    ),
    "a watcher sees what is not there": (
        history(readings=[reading([*LOAD, (19, "z")])]),
        BOARD,
        "was shown (19, 'z'), which is not there",
    ),
    "a view is behind": (history(views={"r0": {**NEWEST, R1: 2}}), BOARD, f"'{R1}', 2"),
    "a view lacks a memory": (
        history(views={"r0": {ref: NEWEST[ref] for ref in NEWEST if ref != R1}}),
        BOARD,
        f"'{R1}', 5",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_told(name: str):
    told, board, words = WRONG[name]

    findings = check(told, board, replicated=False)

    assert any(words in finding for finding in findings), findings


def test_on_several_servers_only_the_same_connection_has_to_see_what_was_acknowledged():
    late = op("get", 100, 101, values=["b"], revisions=[2], ref=R1)
    foreign = history(msgspec.structs.replace(late, worker="w1"))
    own = history(late)

    assert check(foreign, BOARD, replicated=True) == []
    assert check(foreign, BOARD, replicated=False) != []
    assert check(own, BOARD, replicated=True) != []


def test_a_conflict_with_a_write_on_its_way_is_one_though_that_was_never_stored():
    passing = op("revise", 100, outcome="unknown", values=["p"], ref=R1, expected=5, worker="w1")
    refused = op("revise", 101, 102, "conflict", values=["z"], ref=R1, expected=5)

    assert check(history(passing, refused), BOARD, replicated=True) == []


def test_a_thousand_findings_are_told_in_a_few_lines():
    findings = check(
        history(readings=[reading([])]),
        [
            *BOARD,
            *(stored(20 + number, "load.new", f"n{number}") for number in range(1000)),
        ],
        replicated=False,
    )

    assert len(findings) < 60
    assert any("more of this kind" in finding for finding in findings)


def test_what_a_worker_wrote_down_becomes_operations_and_readings():
    told = History()
    told.take(
        "w0-1",
        [
            {"ready": True},
            {"op": 0, "do": "put", "begin": 5, "values": ["a"]},
            {"op": 1, "do": "get", "begin": 6, "ref": R1},
            {"op": 0, "outcome": "ok", "end": 9, "revisions": [1]},
            {"watching": "now", "at": 3},
            {"saw": "now", "revision": 1, "value": "a"},
            {"ended": "now"},
            {"view": {R1: 2}},
        ],
    )

    assert told.ops[0] == op("put", 5, 9, worker="w0-1", values=["a"], revisions=[1], number=0)
    assert (told.ops[1].outcome, told.ops[1].end) == ("unknown", NEVER)
    assert told.readings == [
        Reading(worker="w0-1", since="now", ready=3, seen=[(1, "a")], ended=True)
    ]
    assert told.views == {"w0-1": {R1: 2}}
