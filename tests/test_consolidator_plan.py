"""Which memories are due, how a group is cut, and what the settings may say."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies

from blackboard.consolidator.groups import Candidate, Groups, Key
from blackboard.consolidator.plan import MAX_SOURCES, due, parts, summary_of
from blackboard.consolidator.policy import Policy, Rules, read_rules
from blackboard.errors import SettingsError
from blackboard.messages import CONDENSED, Memory
from blackboard.subjects import Ref

NOW = datetime(2026, 5, 8, tzinfo=UTC)
DAY = timedelta(days=1)


def memory(number: int, **fields: object) -> Memory:
    given = {
        "content": f"memory {number}",
        "agent": "ann",
        "access": "shared",
        "topic": "pumps",
        "session": "s1",
        "id": f"{number:032x}",
        "revision": number,
        "stored": NOW - 2 * DAY,
        **fields,
    }
    return Memory(**given)  # pyright: ignore[reportArgumentType]


def filled(count: int, rules: Rules | None = None, **fields: object) -> Groups:
    groups = Groups(rules or Rules())
    for number in range(1, count + 1):
        groups.take(memory(number, **fields))
    return groups


def only(policy: Policy) -> Rules:
    return Rules(policy=(policy,))


def candidate(number: int, tokens: int, size: int = 10) -> Candidate:
    ref = Ref("ann", "pumps", f"{number:032x}", number, number)
    return Candidate(ref, ref.unpinned, NOW, size, tokens)


def test_fifty_memories_of_yesterday_are_due_and_forty_nine_are_not() -> None:
    assert [one.why for one in due(filled(50), NOW)] == ["count"]
    assert not list(due(filled(49), NOW))
    assert not list(due(filled(50, stored=NOW - timedelta(hours=23)), NOW))


def test_bytes_and_age_make_a_group_due_too() -> None:
    big = only(Policy(bytes=100))
    old = only(Policy(age=3 * DAY))

    assert [one.why for one in due(filled(20, big), NOW)] == ["bytes"]
    assert not list(due(filled(5, big), NOW))
    assert [one.why for one in due(filled(2, old, stored=NOW - 4 * DAY), NOW)] == ["age"]
    assert not list(due(filled(2, old), NOW))
    assert not list(due(filled(1, old, stored=NOW - 4 * DAY), NOW))


def test_the_first_policy_that_fits_a_topic_holds() -> None:
    rules = Rules(
        policy=(
            Policy(topic="pumps.kept", condense=False),
            Policy(topic="pumps.>", count=2),
        )
    )

    assert rules.of("pumps.kept").condense is False
    assert rules.of("pumps.other").count == 2
    assert rules.of("else").count == 50
    assert not list(due(filled(60, rules, topic="pumps.kept"), NOW))


def test_groups_are_known_by_label_topic_session_and_user() -> None:
    groups = Groups(Rules())
    groups.take(memory(1))
    groups.take(memory(2, session=None, user="u1"))
    groups.take(memory(3, session=None))
    groups.take(memory(4, access="pii"))
    groups.take(memory(5, topic="tanks"))

    assert len(groups.keys()) == 5
    assert [key.loose for key in groups.keys()].count(True) == 1  # noqa: SIM118 - no mapping


def test_what_a_summary_covers_is_not_due_and_a_revision_of_it_is() -> None:
    groups = filled(60)
    sources = tuple(memory(number).pinned for number in range(1, 61))
    groups.take(memory(70, agent="consolidator", kind="summary", sources=sources))
    assert not list(due(groups, NOW))
    ((key, made),) = groups.unfinished().items()
    assert key == Key("shared", "pumps", "s1")

    groups.take(memory(1, revision=71))
    groups.take(memory(2, revision=72, gone="retired", reason=CONDENSED + str(made[0])))

    assert [one.ref.revision for one in groups.members(key)] == [71]
    assert len(groups.unretired(made[0])) == 58


def test_a_summary_with_nothing_left_to_retire_is_finished() -> None:
    groups = filled(3)
    sources = tuple(memory(number).pinned for number in range(1, 4))
    groups.take(memory(9, agent="consolidator", kind="summary", sources=sources))
    for number in range(1, 4):
        groups.take(memory(number, revision=10 + number, gone="retired"))

    assert not groups.unfinished()

    groups.take(memory(2, revision=20, gone="forgotten"))
    assert groups.unfinished()


def test_a_forgotten_source_taints_summaries_whichever_comes_first() -> None:
    sources = (memory(1).pinned, memory(2).pinned)
    summary = memory(9, agent="consolidator", kind="summary", sources=sources)
    one, two = filled(2), filled(2)

    one.take(summary)
    one.take(memory(1, revision=10, gone="forgotten"))
    two.take(memory(1, revision=10, gone="forgotten"))
    two.take(summary)

    assert one.tainted == two.tainted == {summary.ref.unpinned}


def test_only_the_consolidators_own_word_makes_a_summary() -> None:
    groups = filled(60)
    sources = tuple(memory(number).pinned for number in range(1, 61))

    groups.take(memory(70, agent="mallory", kind="summary", sources=sources))

    assert len(next(due(groups, NOW)).members) == 60
    assert not groups.unfinished()


def test_what_was_written_from_a_summary_is_an_echo_however_far_from_it() -> None:
    groups = filled(60)
    summary = memory(70, agent="consolidator", kind="summary", sources=(memory(1).pinned,))
    note = memory(71, sources=(summary.pinned,))
    for one in (summary, note, memory(72, sources=(note.pinned,)), memory(73)):
        groups.take(one)

    taken = {one.ref.revision for one in groups.members(Key("shared", "pumps", "s1"))}
    assert {71, 72} & taken == set()
    assert 73 in taken


sizes = strategies.lists(strategies.integers(0, 3_000), min_size=1, max_size=900)


@settings(max_examples=60, deadline=None)
@given(sizes, strategies.integers(1, 40))
def test_a_group_is_cut_from_the_front_whole_and_in_order(sizes: list[int], more: int) -> None:
    members = [candidate(number, tokens) for number, tokens in enumerate(sizes, 1)]
    later = [candidate(len(sizes) + number, 50) for number in range(1, more)]

    cut = parts(members, Policy())
    longer = parts([*members, *later], Policy())

    assert [one for part in cut for one in part] == members
    assert all(0 < len(part) <= MAX_SOURCES for part in cut)
    # Who has seen more begins the same summaries at the same places, but for the last.
    begins = [part[0] for part in cut]
    assert begins[:-1] == [part[0] for part in longer][: len(begins) - 1]


def test_the_same_first_source_makes_the_same_summary() -> None:
    key = Key("shared", "pumps", "s1")
    first = memory(1).pinned

    assert summary_of(key, first) == summary_of(key, first)
    assert summary_of(key, first) != summary_of(key, memory(1, revision=2).pinned)
    assert summary_of(key, first) != summary_of(Key("shared", "pumps", "s2"), first)


def test_settings_are_read_by_topic(tmp_path: Path) -> None:
    path = tmp_path / "policies.toml"
    path.write_text(
        '[[policy]]\ntopic = "cases.>"\nolder_than = "7d"\ncount = 100\nratio = 8\n'
        'sources = "keep"\n[budget]\ntokens_per_hour = 20\nprice_in = 0.5\nmoney_per_day = 1.0\n'
    )

    rules = read_rules(path)

    assert rules.of("cases.a").older_than == timedelta(days=7)
    assert rules.of("cases.a").sources == "keep"
    assert rules.budget.price(2_000_000, 0) == 1.0
    assert read_rules(None) == Rules()


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("[[policy]]\ntopik = 'a'", "topik"),
        ("[[policy]]\nratio = 1.0", "ratio"),
        ("[[policy]]\nolder_than = 'soon'", "soon"),
        ("[[policy]]\ntopic = 'a..b'", "token"),
        ("[[policy]]\nsources = 'burn'", "burn"),
        ("[budget]\nmoney_per_day = 1.0", "price_in"),
        ("policy = 3", "policy"),
        ("[[", "TOML"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(text: str, what: str, tmp_path: Path) -> None:
    path = tmp_path / "policies.toml"
    path.write_text(text)

    with pytest.raises(SettingsError, match=what):
        read_rules(path)
    with pytest.raises(SettingsError, match="cannot read"):
        read_rules(tmp_path / "missing")
