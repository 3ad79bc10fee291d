"""Changes to a policy file: what is meant changes, and all else stays as it was written."""

import tomllib

import pytest

from blackboard.access import Policy
from blackboard.access.amendment import with_member, without_member
from blackboard.errors import SettingsError

POLICY = """\
# Who may do what.
[roles.reader]
read = [
  { topics = ["docs.>"] },  # all of them
]

# The first.
[boards.main.agents.alice]
roles = ["reader"]
# It has one handler.
handlers = [
  "sum",
]

[boards.main.agents.bob]  # the second
roles = ["reader"]

[boards.lab.agents]
carol = { roles = ["reader"] }
dave.roles = ["reader"]
"""


def test_an_agent_is_added_at_the_end():
    amended = with_member(POLICY, "p", "lab", "eve-1", roles=["reader"], handlers=["h"])

    assert amended == (
        f'{POLICY}\n[boards.lab.agents.eve-1]\nroles = ["reader"]\nhandlers = ["h"]\n'
    )


def test_users_of_any_name_are_added():
    amended = with_member(POLICY, "p", "lab", "eve", roles=["reader"], users=['o"brien ü', "\\"])

    assert tomllib.loads(amended)["boards"]["lab"]["agents"]["eve"]["users"] == ['o"brien ü', "\\"]


@pytest.mark.parametrize(("text", "end"), [("", ""), ("[roles.a]\nread=[{topics=['x']}]", "\n")])
def test_an_agent_is_added_to_any_end(text: str, end: str):
    roles = text or "[roles.a]\nread=[{topics=['x']}]\n"

    amended = with_member(roles, "p", "main", "x", roles=["a"])

    assert amended == f'{roles}{end}\n[boards.main.agents.x]\nroles = ["a"]\n'


def test_an_agent_is_taken_out_and_the_rest_is_as_it_was():
    assert without_member(POLICY, "p", "main", "bob") == POLICY.replace(
        '[boards.main.agents.bob]  # the second\nroles = ["reader"]\n', ""
    )
    without = without_member(POLICY, "p", "main", "alice")
    assert without == POLICY.replace(
        '[boards.main.agents.alice]\nroles = ["reader"]\n# It has one handler.\n'
        'handlers = [\n  "sum",\n]\n',
        "",
    )
    assert "# The first." in without
    without = without_member(POLICY, "p", "lab", "carol")
    assert without == POLICY.replace('carol = { roles = ["reader"] }\n', "")
    without = without_member(POLICY, "p", "lab", "dave")
    assert without == POLICY.replace('dave.roles = ["reader"]\n', "")


def test_the_last_agent_can_be_taken_out():
    text = POLICY
    for board, agent in Policy.parse(POLICY).agents():
        text = without_member(text, "p", board, agent)

    assert Policy.parse(text).agents() == []


def test_added_and_taken_out_again_leaves_nothing():
    amended = with_member(POLICY, "p", "main", "eve", roles=["reader"])

    assert without_member(amended, "p", "main", "eve").rstrip() == POLICY.rstrip()


@pytest.mark.parametrize(
    ("board", "agent", "roles", "said"),
    [
        ("main", "alice", ["reader"], "already"),
        ("main", "eve", ["nobody"], "no role 'nobody'"),
        ("main", "steward", ["reader"], "is kept for"),
        ("ma in", "eve", ["reader"], "board 'ma in'"),
        ("main", "Eve", ["reader"], "agent 'Eve'"),
    ],
)
def test_what_would_be_refused_is_not_added(board: str, agent: str, roles: list[str], said: str):
    with pytest.raises(SettingsError, match=said):
        with_member(POLICY, "p", board, agent, roles=roles)


def test_an_agent_that_is_not_there_or_in_no_table_of_its_own_is_not_taken_out():
    with pytest.raises(SettingsError, match="p has no agent 'eve' on board 'main'"):
        without_member(POLICY, "p", "main", "eve")
    inline = '[roles.a]\nread=[{topics=["x"]}]\n[boards.main]\nagents = { x = { roles = ["a"] }, '
    inline += 'y = { roles = ["a"] } }\n'
    with pytest.raises(SettingsError, match="take it out there by hand"):
        without_member(inline, "p", "main", "x")
