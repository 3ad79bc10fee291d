"""Retention policies as they are written: what they mean, and what is refused on which line."""

from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from blackboard.errors import SettingsError
from blackboard.retention import Retention, Rule, parse_retention, read_retention, retention_of

POLICY = """\
personal = ["pii", "user-*"]

[[retain]]                       # an exception stands first
topics = ["legal.>"]
labels = ["pii"]
max_age = "520w"

[[retain]]
labels = ["pii", "user-*"]
max_age = "30d"

[[retain]]
topics = ["cases.>", "chats.*"]
max_age = "1d12h"
max_per_session = 500
before = "summarise"

[[retain]]
topics = ["handbook.>"]
keep = true

[[retain]]
max_age = "365d"
"""


def test_the_first_rule_that_matches_holds():
    policy = parse_retention(POLICY)

    def age(topic: str, access: str = "shared") -> timedelta | None:
        rule = policy.rule_of(topic, access)
        assert rule is not None
        return rule.max_age

    assert age("legal.deed", "pii") == timedelta(weeks=520)
    assert age("legal.deed") == timedelta(days=365)
    assert age("cases.1", "pii") == age("cases.1", "user-42") == timedelta(days=30)
    assert age("cases") == age("cases.1.2") == age("chats.1") == timedelta(days=1.5)
    assert age("chats") == timedelta(days=365)
    assert age("handbook.x") is None
    assert policy.rules[2] == Rule(
        topics=("cases.>", "chats.*"),
        max_age_s=36 * 3600,
        max_per_session=500,
        before="summarise",
    )
    assert policy.is_personal("user-1")
    assert not policy.is_personal("user")


def test_a_high_priority_is_a_shield_but_not_for_what_is_personal():
    policy = parse_retention(POLICY)

    def ends(topic: str, access: str, priority: float) -> bool:
        return policy.age_by(policy.rule_of(topic, access), access, priority) is not None

    assert ends("docs", "shared", 0.89)
    assert not ends("docs", "shared", 0.9)
    assert ends("docs", "pii", 1.0)
    assert not ends("cases.1", "shared", 0.1), "it does not end by itself: it waits for a summary"


def test_the_policy_on_a_board_is_read_as_it_was_written(tmp_path: Path):
    path = tmp_path / "retention.toml"
    path.write_text(POLICY)
    policy = read_retention(path)
    text = msgspec.json.encode(policy).decode()

    assert retention_of({"metadata": {"blackboard-retention": text}}) == policy
    assert retention_of({"metadata": {"blackboard-retention": text[:-1]}}) is None
    assert (
        retention_of({"metadata": {"blackboard-retention": '{"rules": [{"topics": ["a b"]}]}'}})
        is None
    )
    assert retention_of({"metadata": None}) is None
    assert retention_of({}) is None


def test_without_personal_labels_nothing_is_asked_for():
    assert parse_retention("personal = []") == Retention(personal=())


RETAIN = "personal = []\n[[retain]]\n"
EXCEPTION = """\
[[retain]]
labels = ["pii"]
topics = ["a"]
max_age = "3d"
[[retain]]
topics = ["legal"]
keep = true
[[retain]]
max_age = "3d"
"""
REFUSED = {
    "no TOML": ("[[retain]\n", 1, "this is no TOML"),
    "unknown key": ("personal = []\n\n[[retain]]\nmax_ages = '3d'\n", 4, "did you mean 'max_age'?"),
    "unknown table": ("personal = []\n[retention]\n", 2, "did you mean 'retain'?"),
    "no list of rules": ("personal = []\n[retain]\nmax_age = '3d'\n", 2, "must be an array"),
    "a rule without limits": (RETAIN + "topics = ['a']\n", 2, "limits nothing; give it max_age or"),
    "keep and a limit": (RETAIN + "max_age = '3d'\nkeep = true\n", 4, "a rule without limits"),
    "keep is false": (RETAIN + "keep = false\n", 3, "keep can only be true"),
    "age is a number": (RETAIN + "max_age = 30\n", 3, 'max_age must be a string such as "12h"'),
    "age is no duration": (
        RETAIN + "max_age = '30 days'\n",
        3,
        "write one like 30s, 10m, 12h or 7d",
    ),
    "age is too short": (RETAIN + "max_age = '10ms'\n", 3, "from 1 s to 100 years"),
    "age is too long": (RETAIN + "max_age = '99999999999999d'\n", 3, "too long a time"),
    "age is above a century": (RETAIN + "max_age = '5300w'\n", 3, "from 1 s to 100 years"),
    "number is nothing": (RETAIN + "max_per_session = 0\n", 3, "a whole number, at least 1"),
    "number is true": (RETAIN + "max_per_session = true\n", 3, "a whole number, at least 1"),
    "before what": (RETAIN + "max_age = '3d'\nbefore = 'drop'\n", 4, '"remove" or "summarise"'),
    "no pattern": (
        RETAIN + "max_age = '3d'\ntopics = ['a.>.b']\n",
        4,
        "may only be the whole last",
    ),
    "no topics": (RETAIN + "max_age = '3d'\ntopics = []\n", 4, "is empty; leave it out or fill it"),
    "no label": (
        RETAIN + "labels = [\n  'a',\n  'a b',\n]\nmax_age = '3d'\n",
        5,
        "label 'a b' must be",
    ),
    "a star in the middle": (RETAIN + "labels = ['a*b']\nmax_age = '3d'\n", 3, "a * at its end"),
    "second rule": (RETAIN + "max_age = '3d'\n\n[[retain]]\nmax_age = '3'\n", 6, "is no duration"),
    "third rule": (
        RETAIN + "max_age = '3d'\n[[retain]]\nmax_age = '3d'\n# x\n[[retain]]\ntopics = ['b']\n",
        7,
        "limits nothing",
    ),
    "inline": ("personal = []\nretain = [{ max_age = '3d' },\n {}]\n", 2, "limits nothing"),
    "pii without a rule": (
        "[[retain]]\ntopics = ['a.>']\nmax_age = '3d'\n",
        1,
        "personal = [] if none",
    ),
    "a label without a rule": ("\npersonal = ['hr']\n", 2, "under the personal label 'hr'"),
    "only some topics": (
        "personal = ['hr']\n[[retain]]\ntopics = ['a.>']\nlabels = ['hr']\nmax_age = '3d'\n",
        1,
        'labels = ["hr"] and max_age = "30d"',
    ),
    "only one of many": (
        "personal = ['u-*']\n[[retain]]\nlabels = ['u-1']\nmax_age = '3d'\n",
        1,
        "'u-*'",
    ),
    "an exception for good": (
        EXCEPTION,
        5,
        "the rule for legal also holds for memories under the personal label 'pii'",
    ),
    "a summary of it": (
        "[[retain]]\nmax_age = '3d'\nbefore = 'summarise'\n",
        1,
        "a summary of it would be as personal",
    ),
    "too many rules": (
        "personal = []\n" + "[[retain]]\nmax_age = '3d'\n" * 201,
        402,
        "more than 200",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_meant_is_refused_with_its_line(case: str):
    text, line, said = REFUSED[case]

    with pytest.raises(SettingsError) as refused:
        parse_retention(text)

    assert str(refused.value).startswith(f"retention.toml:{line}: ")
    assert said in str(refused.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe")

    with pytest.raises(SettingsError, match=r"nowhere.*No such file"):
        read_retention(tmp_path / "nowhere")
    with pytest.raises(SettingsError, match=r"binary.*not UTF-8"):
        read_retention(tmp_path / "binary")
