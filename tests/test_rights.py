"""Rights: what they let an agent read and write, and the filters that are made from them."""

import random
from itertools import pairwise, permutations, product

import msgspec
import pytest
from hypothesis import given, strategies as st

from blackboard.access import Grant, Rights
from blackboard.access.patterns import meet, within
from blackboard.errors import DeniedError, TerminalError
from blackboard.messages import Memory
from blackboard.subjects import Pattern, subject_matches
from tests.entries import pattern as pattern_of

PAIRS = 5_000
TOPICS = [".".join(tokens) for n in range(1, 6) for tokens in product("ab", repeat=n)]
TOKEN = st.sampled_from(["a", "b", "*"])
PATTERN = st.builds(pattern_of, st.lists(TOKEN, max_size=4), st.booleans())
LABEL = st.sampled_from(["shared", "pii", "*"])
GRANTS = st.lists(st.builds(Grant, LABEL, PATTERN), max_size=5).map(tuple)


def _random_pattern(rng: random.Random) -> str:
    return pattern_of([rng.choice("ab*") for _ in range(rng.randint(0, 4))], rng.random() < 0.5)


def _selected(pattern: str | None) -> set[str]:
    if pattern is None:
        return set()
    parsed = Pattern.parse(pattern)
    return {topic for topic in TOPICS if parsed.matches(topic)}


def test_two_patterns_have_in_common_what_both_match_on_thousands_of_pairs():
    rng = random.Random(5)
    patterns = [_random_pattern(rng) for _ in range(PAIRS)]

    for one, other in pairwise(patterns):
        both = _selected(one) & _selected(other)
        assert _selected(meet(one, other)) == both, (one, other)
        assert meet(one, other) == meet(other, one), (one, other)
        assert (meet(one, other) is None) == (not both), (one, other)
        assert within(one, other) == (_selected(one) <= _selected(other)), (one, other)


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        ("docs.>", "docs", "docs"),
        ("docs.>", "docs.*", "docs.*"),
        ("docs.>", ">", "docs.>"),
        ("docs.>", "*.q", "docs.q"),
        ("docs.>", "*.q.>", "docs.q.>"),
        ("*.q.>", "docs.*", "docs.q"),
        ("docs", "docs.q", None),
        ("docs.>", "reports.>", None),
        ("*.>", ">", ">"),
    ],
)
def test_what_two_patterns_have_in_common(one: str, other: str, both: str | None):
    assert meet(one, other) == meet(other, one) == both


@given(GRANTS, PATTERN)
def test_filters_select_what_may_be_read_of_a_pattern_and_no_filter_lies_within_another(
    grants: tuple[Grant, ...], pattern: str
):
    rights = Rights(board="b", agent="x", read=grants)
    filters = rights.readable(pattern)

    for label, topic in product(("shared", "pii", "other"), TOPICS):
        wanted = Pattern(pattern).matches(topic) and rights.may_read(label, topic)
        assert any(one.holds(label, topic) for one in filters) == wanted
    assert not any(one.within(other) for one, other in permutations(filters, 2))


@given(GRANTS, PATTERN)
def test_the_broker_reads_the_filters_as_the_services_do(grants: tuple[Grant, ...], pattern: str):
    rights = Rights(board="b", agent="x", read=grants)
    subjects = [
        Pattern(one.topic).subject("b", access=one.access) for one in rights.readable(pattern)
    ]

    for label, topic in product(("shared", "pii"), TOPICS):
        subject = f"mem.b.{label}.someone.{topic}.key"
        assert any(subject_matches(one, subject) for one in subjects) == (
            Pattern(pattern).matches(topic) and rights.may_read(label, topic)
        )


def test_rights_to_a_label_include_its_results_of_once():
    rights = Rights(
        board="b",
        agent="x",
        read=(Grant("shared", "docs.>"), Grant("pii", "cases.>", "ann")),
        write=(Grant("finance", "reports"),),
    )

    assert rights.may_read("shared", "once.summary")
    assert not rights.may_read("pii", "once.summary", "ann")
    assert rights.may_write("finance", "once.summary")
    assert not rights.may_read("finance", "once.summary")
    assert rights.labels("once.summary") == ("shared",)
    assert rights.readable("once.summary.>") == (Grant("shared", "once.summary.>"),)
    assert rights.readable(">") == (Grant("shared", "docs.>"), Grant("shared", "once.>"))


def test_results_of_once_are_left_out_of_filters_that_would_overlap():
    rights = Rights(board="b", agent="x", read=(Grant("shared", "*.status"),))

    assert rights.readable(">") == (Grant("shared", "*.status"),)
    assert rights.readable("once.>") == (Grant("shared", "once.>"),)
    assert rights.may_read("shared", "once.summary")


def test_a_right_for_one_user_holds_in_services_and_never_at_the_broker():
    rights = Rights(
        board="b", agent="x", read=(Grant("*", "cases.>", "ann"), Grant("ann", "cases.>"))
    )

    assert rights.may_read("shared", "cases.1", "ann")
    assert not rights.may_read("shared", "cases.1", "bob")
    assert not rights.may_read("shared", "cases.1")
    assert rights.may_read("ann", "cases.1")
    assert rights.labels("cases.1") == ("ann",)
    assert rights.readable("cases.>") == (Grant("ann", "cases.>"),)


def test_an_agent_may_read_what_it_wrote_itself_while_it_may_write_there():
    rights = Rights(board="b", agent="x", write=(Grant("shared", "docs.>"),))

    assert rights.covers(_memory(agent="x", topic="docs.q"))
    assert not rights.covers(_memory(agent="y", topic="docs.q"))
    assert not rights.covers(_memory(agent="x", topic="reports.q"))
    assert not rights.may_read("shared", "docs.q")


def _memory(agent: str, topic: str) -> Memory:
    return Memory(agent=agent, access="shared", topic=topic, id="key")


def test_an_operator_is_not_restricted_by_topic():
    rights = Rights(board="b", agent="cli", operator=True)

    assert rights.may_read("pii", "docs.q", "ann")
    assert rights.may_write("pii", "docs.q")
    assert rights.readable("docs.>") == (Grant("*", "docs.>"),)
    assert rights.labels("docs.q") == ("*",)


def test_a_refusal_names_the_missing_right_and_where_to_add_it():
    rights = Rights(
        board="main", agent="x", read=(Grant("shared", "docs.>"), Grant("pii", "cases.>", "ann"))
    )

    rights.check_read("shared", "docs.q")
    rights.check_read(None, "docs.q")
    with pytest.raises(DeniedError) as refused:
        rights.check_read("pii", "docs.q")
    assert str(refused.value) == (
        "agent 'x' may not read topic 'docs.q' under label 'pii' on board 'main': "
        "it has no such right; add one to its roles in the access policy"
    )
    assert isinstance(refused.value, TerminalError)
    with pytest.raises(DeniedError, match="may not read topic 'reports' on board 'main'"):
        rights.check_read(None, "reports")
    with pytest.raises(DeniedError, match=r"about user 'bob' .* except about ann;"):
        rights.check_read("pii", "cases.1", "bob")
    with pytest.raises(DeniedError, match=r"may not write topic 'docs\.q' under label 'shared'"):
        rights.check_write("shared", "docs.q")


@given(GRANTS, GRANTS)
def test_rights_read_back_as_they_were_written(read: tuple[Grant, ...], write: tuple[Grant, ...]):
    rights = Rights(board="b", agent="x", read=read, write=write, handlers=("h",), digest="d")

    assert msgspec.json.decode(msgspec.json.encode(rights), type=Rights) == rights
