"""What the engines are asked is what the patterns and filters mean."""

from typing import Any

from hypothesis import given, strategies as st

from blackboard.recall import points, predicate
from blackboard.recall.index import Where
from blackboard.recall.predicate import All, Between, Condition, Empty, Not, OneOf, Some
from blackboard.search import Filter, Grant
from blackboard.subjects import Pattern
from tests.entries import NOW, entry, pattern as pattern_of

TOKENS = st.sampled_from(["a", "b", "docs", "0", "a-b", "*"])
TOPICS = st.lists(st.sampled_from(["a", "b", "docs", "0", "a-b"]), min_size=1, max_size=5)
PATTERNS = st.builds(
    pattern_of,
    st.lists(TOKENS, max_size=5),
    st.booleans(),
)


def holds(condition: Condition, fields: dict[str, Any]) -> bool:
    """A third engine: a condition over the fields of one point."""
    match condition:
        case OneOf(field, values):
            have = fields.get(field, [])
            return bool(set(have if isinstance(have, list) else [have]) & set(values))  # pyright: ignore[reportUnknownArgumentType]
        case Between(field, gte, gt, lte, lt):
            have = fields.get(field)
            return have is not None and (
                (gte is None or have >= gte)
                and (gt is None or have > gt)
                and (lte is None or have <= lte)
                and (lt is None or have < lt)
            )
        case Empty(field):
            return field not in fields
        case All(parts):
            return all(holds(part, fields) for part in parts)
        case Some(parts):
            return any(holds(part, fields) for part in parts)
        case Not(part):
            return not holds(part, fields)


@given(pattern=PATTERNS, topic=TOPICS.map(".".join))
def test_a_pattern_selects_in_the_index_what_it_selects_at_the_broker(
    pattern: str, topic: str
) -> None:
    fields = points.payload(entry(1, topic=topic))

    found = all(holds(part, fields) for part in predicate.selects(pattern))

    assert found == Pattern.parse(pattern).matches(topic)


@given(
    one=st.tuples(st.text(max_size=5), st.text(max_size=5)),
    other=st.tuples(st.text(max_size=5), st.text(max_size=5)),
)
def test_tags_are_equal_only_when_name_and_value_are(
    one: tuple[str, str], other: tuple[str, str]
) -> None:
    assert (predicate.tag(*one) == predicate.tag(*other)) == (one == other)
    assert predicate.untag(predicate.tag(*one)) == one


@given(text=st.text(min_size=250, max_size=600), other=st.text(min_size=250, max_size=600))
def test_long_values_are_kept_short_and_apart(text: str, other: str) -> None:
    assert len(predicate.kept(text)) <= predicate.MAX_VALUE
    assert (predicate.kept(text) == predicate.kept(other)) == (text == other)
    assert predicate.kept("x" * predicate.MAX_VALUE) == "x" * predicate.MAX_VALUE


@given(moment=st.datetimes())
def test_times_come_back_to_the_microsecond(moment: Any) -> None:
    assert points.moment(predicate.microseconds(moment)).replace(tzinfo=None) == moment


def test_what_cannot_match_asks_no_engine() -> None:
    assert predicate.compile(Where(Filter(), (), NOW)) is None
    assert predicate.compile(Where(Filter(tags={"dept": ()}), None, NOW)) is None


def test_one_right_to_everything_needs_no_condition() -> None:
    grants = (Grant("pii", "docs.>"), Grant())

    assert predicate.compile(Where(Filter(), grants, NOW)) == predicate.compile(
        Where(Filter(), None, NOW)
    )


@given(st.integers(1, 200))
def test_a_memory_comes_back_from_its_fields(number: int) -> None:
    there = entry(number, session="s", tags={"a=b": "c"}, text="kept")

    assert points.entry(points.payload(there), there.vectors) == there
