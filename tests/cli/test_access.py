"""The commands that explain an access policy."""

from pathlib import Path

import pytest

from tests.commands import CommandLine

POLICY = """\
[roles.analyst]
read  = [{ topics = ["docs.>"], labels = ["shared", "pii"] }]
write = [{ topics = ["docs.summary.>"] }]
[roles.clerk]
read = [{ topics = ["cases.>"] }]
[roles.spare]
read = [{ topics = ["x"] }]

[boards.main.agents.summarizer]
roles = ["analyst"]
handlers = ["sum"]
limits = { connections = 4 }
[boards.lab.agents.desk]
roles = ["clerk"]
users = ["c-42"]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "access.toml"
    path.write_text(POLICY)
    return path


def test_a_policy_is_explained(anywhere: CommandLine, file: Path):
    shown = [line.split() for line in anywhere.ok("access", "check", file).out.splitlines()]

    assert ["main", "summarizer", "analyst", "sum", "connections=4"] in shown
    assert ["main", "summarizer", "read", "docs.>", "pii", "analyst", "broker"] in shown
    assert ["main", "summarizer", "write", "docs.summary.>", "shared", "analyst", "broker"] in shown
    services = ["lab", "desk", "read", "cases.>", "shared", "clerk"]
    assert [*services, *["services,", "about", "c-42", "only"]] in shown
    assert ["roles", "that", "no", "agent", "has:", "spare"] in shown


def test_a_policy_is_explained_to_programs(anywhere: CommandLine, file: Path):
    told = anywhere.json("access", "check", file)

    assert told["unused_roles"] == ["spare"]
    assert [one["agent"] for one in told["agents"]] == ["summarizer", "desk"]
    assert told["agents"][0]["limits"] == {"connections": 4}
    assert told["agents"][1]["read"] == [
        {
            "topics": "cases.>",
            "label": "shared",
            "user": "c-42",
            "role": "clerk",
            "enforced_by": "services",
            "served": True,
        }
    ]


def test_a_served_label_is_explained(anywhere: CommandLine, file: Path):
    file.write_text(f'served = ["pii"]\n{POLICY}')

    told = anywhere.json("access", "check", file)
    shown = anywhere("access", "check", file).out
    may = anywhere(
        "access", "can", "summarizer", "read", "docs.q", "--label", "pii", "--file", file
    )

    assert {right["label"]: right["served"] for right in told["agents"][0]["read"]} == {
        "shared": False,
        "pii": True,
    }
    assert "broker; read through the steward" in shown
    assert "through the steward, which records each read before it answers" in may.out


def test_an_error_in_a_policy_is_shown_with_its_line(anywhere: CommandLine, file: Path):
    file.write_text(POLICY.replace('topics = ["cases.>"]', 'topics = ["cases.>.x"]'))

    refused = anywhere("access", "check", file)

    assert refused.code == 2
    assert f"{file}:5: pattern 'cases.>.x'" in refused.err


def test_who_may_do_what_is_an_exit_code_and_a_reason(anywhere: CommandLine, file: Path):
    may = anywhere(
        "access", "can", "summarizer", "read", "docs.q", "--label", "pii", "--file", file
    )
    not_there = anywhere("access", "can", "summarizer", "write", "docs.q", "--file", file)
    desk = ("access", "can", "desk", "read", "cases.1", "--file", file, "--board", "lab")
    about = anywhere(*desk, "--user", "c-42")
    about_another = anywhere(*desk, "--user", "c-7", "--json")

    assert (may.code, may.out) == (0, "yes: role 'analyst' lets it read 'docs.>' under 'pii'\n")
    assert not_there.code == 1
    assert 'add to one: write = [{ topics = ["docs.q"] }]' in not_there.out
    assert about.code == 0
    assert about_another.code == 1
    assert about_another.json["allowed"] is False


def test_where_there_is_no_policy_it_is_said_how_to_begin(anywhere: CommandLine):
    for arguments in (
        ("access",),
        ("access", "can", "x", "read", "docs"),
        ("access", "apply"),
        ("access", "add", "x", "--role", "r"),
        ("access", "revoke", "x"),
        ("access", "rotate", "x"),
    ):
        refused = anywhere(*arguments)
        assert refused.code == 2, arguments
        assert "there is no access policy in " in refused.err
        assert "blackboard up --access FILE" in refused.err
