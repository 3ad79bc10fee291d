import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given, settings, strategies as st

from blackboard.recall.index import Candidate, Scored
from blackboard.recall.predicate import microseconds
from blackboard.recall.rank import DEPTH, HALF_LIFE_DAYS, LIFT, rank
from blackboard.search import Found
from blackboard.subjects import Ref

NOW = datetime(2026, 3, 1, tzinfo=UTC)
RESULT = Ref("*", "once.sum", "ab" * 20)


def ref(number: int) -> Ref:
    return Ref("agent", "topic", f"{number:032x}")


def scored(number: int, score: float, **fields: Any) -> Scored:
    values: dict[str, Any] = {"revision": number + 1, "stored": NOW, "priority": 0.5} | fields
    values["stored"] = microseconds(values["stored"])
    return Scored(Candidate(str(ref(number)), **values), score)


def ranked(parts: dict[str, list[Scored]], **options: Any) -> list[Found]:
    usual: dict[str, Any] = {"limit": 1000, "now": NOW}
    return rank(parts, **usual | options)


def order(parts: dict[str, list[Scored]], **options: Any) -> list[int]:
    return [int(hit.ref.id, 16) for hit in ranked(parts, **options)]


def part(scores: st.SearchStrategy[float]) -> st.SearchStrategy[list[Scored]]:
    numbers = st.integers(0, 11)
    sessions = {number: [None, "a", "b"][number % 3] for number in range(12)}
    return st.dictionaries(numbers, scores, max_size=12).map(
        lambda found: [scored(n, score, session=sessions[n]) for n, score in found.items()]
    )


def parts(scores: st.SearchStrategy[float]) -> st.SearchStrategy[dict[str, list[Scored]]]:
    return st.fixed_dictionaries({}, optional={name: part(scores) for name in ("bare", "words")})


ANY = st.floats(allow_nan=True, allow_infinity=True)
USUAL = st.floats(0, 50).map(lambda value: round(value, 3))


@settings(max_examples=300, deadline=None)
@given(parts(ANY), st.floats(0, 1), st.floats(0, 1), st.integers(1, 15))
@example({"bare": [scored(0, 0.0), scored(1, -1.7e308), scored(2, 1e292)]}, 0.0, 0.0, 1)
def test_whatever_the_scores_are_the_ranking_is_well_formed(
    found: dict[str, list[Scored]], recency: float, priority: float, limit: int
):
    hits = rank(found, limit=limit, now=NOW, recency=recency, priority=priority)

    everything = {each.candidate.ref for candidates in found.values() for each in candidates}
    assert len(hits) == min(limit, len(everything))
    assert len({hit.ref.unpinned for hit in hits}) == len(hits)
    scores = [hit.score for hit in hits]
    assert all(math.isfinite(score) for score in scores)
    assert scores == sorted(scores, reverse=True)
    for hit in hits:
        assert math.fsum(hit.why.values()) == pytest.approx(hit.score)
        assert all(value >= 0 for value in hit.why.values())


@settings(deadline=None)
@given(parts(USUAL), st.randoms())
def test_the_order_of_the_candidates_does_not_matter(found: dict[str, list[Scored]], dice: Any):
    shuffled = {name: dice.sample(found[name], len(found[name])) for name in sorted(found)[::-1]}

    assert ranked(shuffled) == ranked(found)


@settings(max_examples=500, deadline=None)
@given(parts(USUAL), st.sampled_from(["bare", "words"]), st.integers(0, 11), st.floats(0.1, 100))
def test_what_scores_higher_is_never_ranked_lower_for_it(
    found: dict[str, list[Scored]], name: str, number: int, more: float
):
    candidates = found.get(name, [])
    raised = [
        scored(number, each.score + more, session=each.candidate.session)
        if each.candidate.ref == str(ref(number))
        else each
        for each in candidates
    ]
    if raised == candidates:
        return

    before = {hit.ref: place for place, hit in enumerate(ranked(found))}
    after = ranked(found | {name: raised})

    place = next(place for place, hit in enumerate(after) if hit.ref == scored_ref(number))
    assert place <= before[scored_ref(number)]


def scored_ref(number: int) -> Ref:
    return ref(number).pinned(number + 1)


def test_the_best_match_scores_one():
    hits = ranked({"words": [scored(1, 9.0), scored(2, 3.0)], "bare": [scored(1, 0.8)]})

    assert hits[0].score == pytest.approx(1.0)
    assert hits[0].why.keys() == {"words", "bare", "session"}


def test_parts_count_alike_whatever_their_scale():
    words = [scored(1, 40.0), scored(2, 10.0)]
    bare = [scored(2, 0.9), scored(1, 0.3)]

    assert order({"words": words, "bare": bare}) == order(
        {"words": [scored(1, 0.4), scored(2, 0.1)], "bare": bare}
    )


def test_what_both_parts_name_comes_before_what_one_names():
    words = [scored(1, 5.0), scored(2, 5.0)]

    assert order({"words": words, "bare": [scored(1, 0.5), scored(3, 0.5)]})[0] == 1


@pytest.mark.parametrize("absent", ["bare", "words"])
def test_a_part_may_be_empty_or_missing(absent: str):
    name = {"bare": "words", "words": "bare"}[absent]
    candidates = [scored(1, 0.2), scored(2, 0.7), scored(3, 0.5)]

    assert order({name: candidates}) == [2, 3, 1]
    assert order({name: candidates, absent: []}) == [2, 3, 1]
    assert order({}) == []


def test_parts_that_have_no_weight_are_ignored():
    words = [scored(1, 2.0), scored(2, 1.0)]

    assert ranked({"words": words, "other": [scored(2, 99.0)]}) == ranked({"words": words})


def test_of_equal_ones_the_newest_is_first():
    assert order({"words": [scored(n, 3.0) for n in (2, 9, 4)]}) == [9, 4, 2]
    full = [scored(n, 3.0) for n in range(DEPTH)]
    assert order({"words": full}) == list(range(DEPTH))[::-1]


def test_a_score_that_is_no_number_counts_for_nothing():
    words = [scored(1, math.nan), scored(2, 1.0), scored(3, -math.inf), scored(4, math.inf)]

    assert order({"words": words}) == [2, 4, 3, 1]


def test_one_of_few_is_not_worthless_because_it_is_the_lowest():
    # Both words match both memories; that one is a little lower must not cost it everything.
    words = [scored(1, 5.0), scored(2, 4.9)]
    bare = [scored(2, 0.6), scored(1, 0.3)]

    assert order({"words": words, "bare": bare}) == [2, 1]


def test_a_memory_gains_by_a_good_match_in_its_session():
    words = [scored(1, 9.0, session="a"), scored(2, 4.0, session="a"), scored(3, 4.0)]

    hits = {int(hit.ref.id, 16): hit for hit in ranked({"words": words})}

    assert hits[2].score > hits[3].score
    assert hits[2].why["words"] == pytest.approx(hits[3].why["words"])
    assert hits[2].why["session"] == pytest.approx(LIFT * hits[1].why["words"])
    assert hits[3].why["session"] == pytest.approx(LIFT * hits[3].why["words"])


def test_memories_that_show_the_same_result_are_one_hit_and_the_best_stands_for_them():
    words = [
        scored(1, 3.0, shows=str(RESULT)),
        scored(2, 5.0, shows=str(RESULT)),
        scored(3, 4.0),
    ]
    assert order({"words": words}) == [2, 3]


def test_parts_that_name_a_result_by_different_memories_speak_of_the_same_hit():
    words = [scored(1, 5.0, shows=str(RESULT)), scored(3, 5.0)]
    bare = [scored(2, 0.5, shows=str(RESULT)), scored(4, 0.5)]

    hits = ranked({"words": words, "bare": bare})

    assert hits[0].ref.id in {ref(1).id, ref(2).id}
    assert {"words", "bare"} <= hits[0].why.keys()
    assert len(hits) == 3


def test_a_result_and_what_shows_it_are_one_hit():
    result = Scored(Candidate(str(RESULT), 9, microseconds(NOW), 0.5, str(RESULT)), 4.0)

    assert len(ranked({"words": [result, scored(1, 4.5, shows=str(RESULT))]})) == 1


def test_recency_halves_with_every_half_life():
    def bonus(days: float) -> float:
        old = scored(1, 1.0, stored=NOW - timedelta(days=days))
        return ranked({"words": [old]}, recency=0.5)[0].why["recency"]

    assert bonus(0) == pytest.approx(0.5)
    assert bonus(HALF_LIFE_DAYS) == pytest.approx(0.25)
    assert bonus(2 * HALF_LIFE_DAYS) == pytest.approx(0.125)
    assert bonus(-1) == pytest.approx(0.5)  # another machine's clock
    assert bonus(100_000) == pytest.approx(0.0)


def test_recency_and_priority_decide_between_equal_matches_and_only_when_asked():
    words = [
        scored(1, 3.0, revision=9, stored=NOW - timedelta(days=30), priority=0.9),
        scored(2, 3.0, revision=5, stored=NOW, priority=0.1),
    ]

    assert order({"words": words}) == [1, 2]
    assert order({"words": words}, recency=0.3) == [2, 1]
    assert order({"words": words}, recency=0.3, priority=1.0) == [1, 2]


def test_hits_are_pinned_to_what_was_indexed():
    (hit,) = ranked({"words": [scored(1, 3.0, revision=77)]})

    assert hit.ref.revision == 77
