"""The tree of a trace holds every span once, whatever is missing, doubled or forged."""

from datetime import UTC, datetime
from typing import Any

from hypothesis import given, strategies as st

from blackboard.records import AuditEvent, SpanRecord
from blackboard.subjects import Pattern, Ref
from blackboard.trace import build, matching, render, walk

TRACE = "a" * 32
MS = 1_000_000


def span(
    name: str,
    start: float = 0,
    took: float = 1,
    *,
    parent: str | None = None,
    agent: str = "reader",
    trace: str = TRACE,
    **fields: Any,
) -> SpanRecord:
    """A span whose id is its name, with times in milliseconds."""
    return SpanRecord(
        trace=trace,
        span=name,
        parent=parent,
        name=name,
        kind="internal",
        start_ns=int(start * MS),
        end_ns=int((start + took) * MS),
        agent=agent,
        instance=f"{agent}-1",
        **fields,
    )


def shape(*spans: SpanRecord) -> list[tuple[int, str]]:
    return [(depth, node.span.name) for depth, node in walk(build(spans))]


def test_children_hang_below_their_parent_in_order_of_their_start():
    tree = shape(
        span("late", 5, parent="top"),
        span("leaf", 2, parent="early"),
        span("early", 1, parent="top"),
        span("top", 0, 10),
    )

    assert tree == [(0, "top"), (1, "early"), (2, "leaf"), (1, "late")]


def test_a_span_without_its_parent_is_a_root_that_says_so():
    roots = build(
        [span("top", 0), span("lost", 1, parent="nobody"), span("below", 2, parent="lost")]
    )

    assert [(node.span.name, node.orphan) for node in roots] == [("top", False), ("lost", True)]
    assert shape(*(node.span for _, node in walk(roots)))[-1] == (1, "below")
    assert "parent is not on the board" in render(roots)


def test_a_span_that_is_given_twice_counts_once():
    assert shape(span("top"), span("child", parent="top"), span("top")) == [
        (0, "top"),
        (1, "child"),
    ]


def test_spans_of_different_traces_with_the_same_id_stay_apart():
    other = "b" * 32

    assert shape(span("top"), span("x", 1, parent="top", trace=other)) == [(0, "top"), (0, "x")]


def test_a_merged_group_hangs_below_the_last_of_the_spans_that_it_continues():
    other = "b" * 32
    spans = [
        span("first", 0, 2),
        span("second", 1, 5),
        span("merge", 7, trace=other, links=(f"{TRACE}-first", f"{TRACE}-second", f"{TRACE}-gone")),
        span("inner", 8, parent="merge", trace=other),
    ]

    assert shape(*spans) == [(0, "first"), (0, "second"), (1, "merge"), (2, "inner")]
    assert "⇐ 3 spans" in render(build(spans))


def test_a_clock_that_is_behind_does_not_put_a_child_before_its_parent():
    roots = build(
        [
            span("top", 1000, 10, agent="writer"),
            span("process", 400, 5, parent="top"),
            span("get", 402, 1, parent="process"),
            span("put", 403, 1, parent="process", agent="writer"),
        ]
    )

    nodes = {node.span.name: node for _, node in walk(roots)}
    assert nodes["process"].start_ns == 1000 * MS
    assert nodes["get"].start_ns == 1002 * MS
    assert nodes["put"].start_ns >= nodes["process"].start_ns
    assert "(clock +600.0 ms)" in render(roots)


def test_a_later_start_in_another_process_is_left_as_it_is():
    [root] = build([span("top", 0, 1, agent="writer"), span("process", 50, 5, parent="top")])

    assert root.children[0].shift_ns == 0
    assert root.children[0].start_ns == 50 * MS


def test_parents_in_a_circle_end_nothing():
    tree = shape(span("a", parent="b"), span("b", parent="c"), span("c", parent="a"), span("d"))
    alone = shape(span("self", parent="self"))

    assert sorted(name for _, name in tree) == ["a", "b", "c", "d"]
    assert alone == [(0, "self")]


def test_a_very_deep_trace_can_be_shown():
    spans = [span("0")] + [span(str(n), n, parent=str(n - 1)) for n in range(1, 5000)]

    assert render(build(spans)).count("\n") == 5001


@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.none() | st.integers(0, 9), st.integers(-5, 5)), max_size=10
    ),
    st.lists(st.integers(0, 9), max_size=3),
)
def test_whatever_the_parents_every_span_stands_in_the_tree_once(
    rows: list[tuple[int, int | None, int]], linked: list[int]
):
    links = tuple(f"{TRACE}-{number}" for number in linked)
    spans = [
        span(str(own), start, parent=None if above is None else str(above), links=links)
        for own, above, start in rows
    ]

    names = [name for _, name in shape(*spans)]

    assert sorted(names) == sorted({one.name for one in spans})


def test_the_text_shows_times_agents_references_and_errors():
    spans = [
        span(
            "process docs.>",
            0,
            1500,
            agent="summarizer",
            attributes={"messaging.message.id": "reader/docs/1@7"},
        ),
        span(
            "get_memory",
            2,
            0.25,
            parent="process docs.>",
            agent="summarizer",
            attributes={
                "gen_ai.memory.record.id": "reader/docs/2",
                "blackboard.outcome": "GoneError",
            },
        ),
        span(
            "chat tiny",
            3,
            1000,
            parent="process docs.>",
            agent="summarizer",
            error="ModelBusyError",
        ),
        span(
            "once_memory",
            4,
            30,
            parent="chat tiny",
            agent="other",
            attributes={"blackboard.once": "summary", "blackboard.reused": True},
        ),
    ]

    assert render(build(spans)) == "\n".join(
        [
            f"trace {TRACE}: 4 spans, 2 agents, 1 error, 1.50 s",
            "     start  duration",
            "    0.0 ms    1.50 s  process docs.> [summarizer] reader/docs/1@7",
            "    2.0 ms    0.2 ms  ├─ get_memory [summarizer] reader/docs/2 → GoneError",
            "    3.0 ms    1.00 s  └─ chat tiny [summarizer] ✗ ModelBusyError",
            "    4.0 ms   30.0 ms     └─ once_memory [other] summary reused",
        ]
    )


def test_no_spans_make_no_text():
    assert render(build([])) == ""


def test_control_characters_do_not_reach_the_terminal():
    text = render(build([span("\x1b[2Jname\n", agent="a\x07b", error="\x1b]0;title")]))

    assert "\x1b" not in text
    assert "\x07" not in text
    assert text.count("\n") == 2


def event(act: str = "get", what: str = "reader/docs.a/" + "0" * 32, **fields: Any) -> AuditEvent:
    return AuditEvent(
        at=datetime(2026, 11, 20, tzinfo=UTC),
        agent=fields.pop("agent", "reader"),
        instance="1",
        act=act,
        what=what,
        **fields,
    )


def test_audit_events_are_chosen_by_who_what_and_how():
    events = [
        event(),
        event("retire"),
        event(agent="writer"),
        event(outcome="GoneError", trace="t"),
    ]

    assert list(matching(events)) == events
    assert list(matching(events, act="retire")) == [events[1]]
    assert list(matching(events, agent="writer")) == [events[2]]
    assert list(matching(events, outcome="GoneError", trace="t")) == [events[3]]
    assert list(matching(events, outcome="GoneError", agent="writer")) == []


def test_audit_events_are_chosen_by_reference_and_pattern():
    ref = Ref.parse("reader/docs.a/" + "0" * 32)
    events = [
        event(revision=3),
        event(what=f"{ref}@4", revision=4),
        event(what="*/docs.b/key"),
        event("watch", "docs.>"),
        event("watch", "other.>"),
        event(what="no reference"),
    ]

    assert list(matching(events, about=ref)) == events[:2]
    assert list(matching(events, about=ref.pinned(3))) == events[:1]
    assert list(matching(events, about=Pattern.parse("docs.>"))) == events[:4]
    assert list(matching(events, about=Pattern.parse("docs.b"))) == [events[2]]


def test_an_event_of_a_batch_that_was_stored_twice_is_shown_once():
    assert list(matching([event(revision=1), event(revision=2), event(revision=1)])) == [
        event(revision=1),
        event(revision=2),
    ]
