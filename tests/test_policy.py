"""The policy file: what it grants, what it refuses and on which line, and why it decides so."""

import random
from itertools import product
from pathlib import Path

import pytest

from blackboard.access import Grant, Policy, Quota, Rights, decide
from blackboard.access.roles import Act
from blackboard.errors import InvalidError, SettingsError

POLICY = """\
# Who may do what.
[roles.analyst]
read = [
  { topics = ["docs.>", "reports.>"], labels = ["shared", "pii"] },
]
write  = [{ topics = ["docs.summary.>"] }]
ask    = [{ topics = ["questions.billing"] }]

[roles.clerk]
read   = [{ topics = ["cases.>"] }, { topics = ["letters.>"], labels = ["user-{user}"] }]
answer = [{ topics = ["questions.billing"], labels = ["finance"] }]
write  = [{ topics = ["cases.>"], labels = ["*"] }]

[boards.main.agents.summarizer]
roles = ["analyst"]
handlers = ["summarize", "merge"]
limits = { message_bytes = 262144, messages_per_s = 200, connections = 4 }

[boards.main.agents.desk-42]
roles = ["clerk"]
users = ["customer-42", "customer-43"]

[boards.lab.agents.summarizer]
roles = ["analyst", "clerk"]
users = ["x"]
"""


@pytest.fixture(scope="module")
def policy() -> Policy:
    return Policy.parse(POLICY)


def test_roles_become_rights(policy: Policy):
    rights = policy.rights("main", "summarizer")

    assert rights == Rights(
        board="main",
        agent="summarizer",
        read=(
            Grant("shared", "docs.>"),
            Grant("pii", "docs.>"),
            Grant("shared", "reports.>"),
            Grant("pii", "reports.>"),
            Grant("shared", "answers.questions.billing"),
        ),
        write=(Grant("shared", "docs.summary.>"), Grant("shared", "questions.billing")),
        handlers=("summarize", "merge"),
        quota=Quota(message_bytes=262_144, messages_per_s=200, connections=4),
        digest=policy.digest,
    )


def test_users_limit_what_is_read_and_make_labels_of_their_own(policy: Policy):
    rights = policy.rights("main", "desk-42")
    assert rights is not None

    assert rights.read == (
        Grant("shared", "cases.>", "customer-42"),
        Grant("shared", "cases.>", "customer-43"),
        Grant("user-customer-42", "letters.>"),
        Grant("user-customer-43", "letters.>"),
        Grant("finance", "questions.billing", "customer-42"),
        Grant("finance", "questions.billing", "customer-43"),
    )
    assert rights.write == (Grant("finance", "answers.questions.billing"), Grant("*", "cases.>"))
    assert rights.may_read("shared", "cases.1", "customer-42")
    assert not rights.may_read("shared", "cases.1", "customer-7")


def test_boards_share_nothing(policy: Policy):
    assert policy.agents() == [("main", "summarizer"), ("main", "desk-42"), ("lab", "summarizer")]
    assert policy.boards() == ["main", "lab"]
    assert policy.rights("lab", "desk-42") is None
    assert policy.rights("other", "summarizer") is None


def test_the_command_line_and_the_services_have_rights_on_every_board(policy: Policy):
    for name in ("cli", "steward", "recall"):
        rights = policy.rights("any", name)
        assert rights is not None
        assert rights.operator
    probe = policy.rights("any", "probe")
    assert probe is not None
    assert probe.may_write("probe", "docs.q")
    assert not probe.may_read("shared", "docs.q")


def test_the_digest_is_of_what_the_policy_says(policy: Policy):
    reworded = POLICY.replace("# Who may do what.", "# Or so.").replace("write  =", "write =")
    narrower = POLICY.replace('"docs.>", ', "")

    assert Policy.parse(reworded).digest == policy.digest
    assert Policy.parse(narrower).digest != policy.digest


def test_a_policy_without_agents_allows_nobody_anything():
    assert Policy.parse("").agents() == []


def test_labels_that_are_served_are_said_with_the_rights():
    def served(labels: str, agent: str) -> tuple[str, ...]:
        rights = Policy.parse(f"served = {labels}\n{POLICY}").rights("main", agent)
        assert rights is not None
        return rights.served

    assert served('["pii"]', "summarizer") == ("pii",)
    assert served('["*"]', "summarizer") == ("shared", "pii")
    # Who may use every label uses the served ones too.
    assert served('["pii"]', "desk-42") == ("*",)
    assert set(served('["user-{user}"]', "desk-42")) == {
        "*",
        "user-customer-42",
        "user-customer-43",
    }
    assert served('["user-customer-42"]', "desk-42") == ("user-customer-42", "*")


def test_a_right_to_a_served_label_says_so(policy: Policy):
    with_pii = Policy.parse(f'served = ["pii"]\n{POLICY}')

    def why(policy: Policy, label: str) -> str:
        return decide(policy, "main", "summarizer", "read", "docs.q", label).reason

    assert "through the steward" in why(with_pii, "pii")
    assert "through the steward" not in why(with_pii, "shared")
    assert "through the steward" not in why(policy, "pii")
    assert (
        "through the steward"
        in decide(with_pii, "main", "summarizer", "read", "once.x", "pii").reason
    )


REFUSED = {
    "no TOML": ("[roles.a\n", 1, "no TOML"),
    "a served label that no right has": (
        'served = ["pii",\n  "pi"]\n[roles.a]\nread = [{ topics = ["a"], labels = ["pii"] }]\n',
        2,
        "label 'pi' is served and stands in no right; the file has: pii",
    ),
    "a served label that is none": ('served = ["a b"]\n', 1, "label 'a b'"),
    "served labels that are no array": ('served = "pii"\n', 1, "must be an array"),
    "the same key twice": ("[roles.a]\nread = []\nread = []\n", 3, "no TOML"),
    "an unknown key": ("[role.a]\n", 1, "'role'; did you mean 'roles'"),
    "an unknown kind of right": (
        '[roles.a]\nread = [{ topics = ["a"] }]\ndelete = [{ topics = ["a"] }]\n',
        3,
        "roles.a has no key 'delete'",
    ),
    "an unknown key of a right": (
        '[roles.a]\nread = [\n  { topics = ["a"] },\n  { topics = ["b"], label = ["c"] },\n]\n',
        4,
        "'label'; did you mean 'labels'",
    ),
    "a right that is no array": ('[roles.a]\nread = "docs"\n', 2, "must be an array"),
    "a right that is no table": ('[roles.a]\nread = ["docs"]\n', 2, "must be a table"),
    "a topic that is no string": ("[roles.a]\nread = [{ topics = [1] }]\n", 2, "must hold strings"),
    "a right without topics": ('[roles.a]\nread = [{ labels = ["a"] }]\n', 2, "needs topics"),
    "no topics": ("[roles.a]\nread = [{ topics = [] }]\n", 2, "is empty"),
    "a role that grants nothing": ("# a\n\n[roles.a]\n", 3, "grants nothing"),
    "a role with a name of two tokens": (
        '[roles."a.b"]\nread = [{ topics = ["a"] }]\n',
        1,
        "role 'a.b'",
    ),
    "a pattern with an arrow inside": (
        '[roles.a]\nread = [\n  { topics = [\n    "ok",\n    "docs.>.x",\n  ] },\n]\n',
        5,
        "'>' may only be the whole last token",
    ),
    "a pattern with an empty token": ('[roles.a]\nwrite = [{ topics = ["a..b"] }]\n', 2, "a..b"),
    "a label of two tokens": (
        '[roles.a]\nread = [\n  { topics = ["a"], labels = ["ok",\n    "p.ii"] },\n]\n',
        4,
        "p.ii",
    ),
    "a label with a wildcard in it": (
        '[roles.a]\nread = [{ topics = ["a"], labels = ["p*"] }]\n',
        2,
        "p*",
    ),
    "a right with users": (
        '[roles.a]\nwrite = [{ topics = ["a"], users = ["u"] }]\n',
        2,
        "give `users = [...]` to the agent",
    ),
}
ROLES = """\
[roles.a]
read = [{ topics = ["docs.>"] }]
[roles.u]
read = [{ topics = ["u"], labels = ["{user}"] }]
[roles.w]
write = [{ topics = ["docs.>"] }]
"""
REFUSED_AGENTS = {
    "an unknown role": ('[boards.b.agents.x]\nroles = [\n"a",\n"c",\n]\n', 10, "no role 'c'"),
    "no roles": ('[boards.b.agents.x]\nhandlers = ["h"]\n', 7, "has no roles"),
    "an empty list of roles": ("[boards.b.agents.x]\nroles = []\n", 8, "is empty"),
    "an unknown key of an agent": ('[boards.b.agents.x]\nroles = ["a"]\nuser = "u"\n', 9, "'user'"),
    "a reserved name": ('[boards.b.agents.steward]\nroles = ["a"]\n', 7, "is kept for"),
    "the name of the broker's own account": (
        '[boards.b.agents.system]\nroles = ["a"]\n',
        7,
        "is kept for",
    ),
    "a board with a reserved name": (
        '[boards.cli.agents.x]\nroles = ["a"]\n',
        7,
        "is kept for",
    ),
    "a name that is none": ('[boards.b.agents.a--b]\nroles = ["a"]\n', 7, "agent 'a--b'"),
    "a board that is none": ('[boards."b c".agents.x]\nroles = ["a"]\n', 7, "board 'b c'"),
    "boards that differ in case only": (
        '[boards.b.agents.x]\nroles = ["a"]\n[boards.B.agents.x]\nroles = ["a"]\n',
        9,
        "differ in case only",
    ),
    "a board without agents": ("\n[boards.b]\n", 8, "has no agents"),
    "a handler that is none": (
        '[boards.b.agents.x]\nroles = ["a"]\nhandlers = ["ok", "No"]\n',
        9,
        "handler 'No'",
    ),
    "handlers without a right to read": (
        '[boards.b.agents.x]\nroles = ["w"]\nhandlers = ["h"]\n',
        9,
        "has handlers and no right to read; add one",
    ),
    "handlers that the broker could not filter": (
        '[boards.b.agents.x]\nroles = ["a"]\nusers = ["u"]\nhandlers = ["h"]\n',
        10,
        "limited to users",
    ),
    "a label of users without users": ('[boards.b.agents.x]\nroles = ["u"]\n', 7, "has no users"),
    "a user that makes no label": (
        '[boards.b.agents.x]\nroles = ["u"]\nusers = ["a b"]\n',
        9,
        "makes a label",
    ),
    "a limit of nothing": (
        '[boards.b.agents.x]\nroles = ["a"]\nlimits = { connections = 0 }\n',
        9,
        "allows nothing",
    ),
    "a negative limit": (
        '[boards.b.agents.x]\nroles = ["a"]\n[boards.b.agents.x.limits]\nmessages_per_s = -1.5\n',
        10,
        "allows nothing",
    ),
    "a limit that is no number": (
        '[boards.b.agents.x]\nroles = ["a"]\nlimits = { messages_per_s = true }\n',
        9,
        "must be a number",
    ),
    "half a connection": (
        '[boards.b.agents.x]\nroles = ["a"]\nlimits.connections = 1.5\n',
        9,
        "must be a whole number",
    ),
    "more than a message may have": (
        '[boards.b.agents.x]\nroles = ["a"]\nlimits.message_bytes = 99999999\n',
        9,
        "above what the broker takes",
    ),
}


@pytest.mark.parametrize("what", [*REFUSED, *REFUSED_AGENTS])
def test_what_cannot_be_meant_is_refused_with_its_line(what: str):
    if what in REFUSED_AGENTS:
        text, line, said = REFUSED_AGENTS[what]
        text = ROLES + text
    else:
        text, line, said = REFUSED[what]

    with pytest.raises(SettingsError) as refused:
        Policy.parse(text)

    assert str(refused.value).startswith(f"access.toml:{line}: ")
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("rights", "line", "said"),
    [
        ('[roles.a]\nread = [{ topics = ["docs.>",\n"*.q"] }]\n', 3, "'docs.>' under label"),
        (
            '[roles.a]\nread = [{ topics = ["docs.*.x"] },\n { topics = ["docs.b.>"] }]\n',
            3,
            "such as 'docs.>'",
        ),
        (
            '[roles.a]\nread = [{topics=["a.>"], labels=["*"]},\n{topics=[">"], labels=["pii"]}]\n',
            3,
            "write the labels out instead of '*'",
        ),
    ],
)
def test_rights_that_no_consumer_could_be_filtered_by_are_refused(
    rights: str, line: int, said: str
):
    agent = '[boards.b.agents.x]\nroles = ["a"]\n'

    with pytest.raises(SettingsError) as refused:
        Policy.parse(rights + agent)

    assert str(refused.value).startswith(f"access.toml:{line}: ")
    assert "overlap only in part" in str(refused.value)
    assert said in str(refused.value)


def test_rights_of_two_roles_that_overlap_in_part_are_refused_where_they_meet():
    text = '[roles.a]\nread = [{ topics = ["docs.*.x"] }]\n[roles.b]\nread = [{ topics = '
    text += '["docs.b.>"] }]\n[boards.m.agents.x]\nroles = ["a"]\n'
    assert Policy.parse(text).agents() == [("m", "x")]

    with pytest.raises(SettingsError, match=r"access.toml:8: .*role 'a'.*role 'b'"):
        Policy.parse(f'{text}[boards.m.agents.y]\nroles = ["a", "b"]\n')


def test_a_right_that_holds_another_and_one_that_is_limited_to_users_may_overlap():
    text = '[roles.a]\nread = [{ topics = ["docs.>", "docs.q", "docs.>"] }]\n'
    text += '[roles.b]\nread = [{ topics = ["*.q"] }]\n[boards.m.agents.x]\nroles = ["a"]\n'
    text += '[boards.m.agents.y]\nroles = ["a", "b"]\nusers = ["u"]\n'

    assert Policy.parse(text).agents() == [("m", "x"), ("m", "y")]


def test_a_file_that_cannot_be_read_says_so(tmp_path: Path):
    with pytest.raises(SettingsError, match="cannot read the access policy"):
        Policy.load(tmp_path / "none.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff")
    with pytest.raises(SettingsError, match="is not UTF-8"):
        Policy.load(tmp_path / "bytes.toml")
    (tmp_path / "access.toml").write_text(POLICY)
    assert len(Policy.load(tmp_path / "access.toml").agents()) == 3


@pytest.mark.parametrize(
    ("question", "allowed", "said"),
    [
        (("main", "summarizer", "read", "docs.q"), True, "role 'analyst' lets it read 'docs.>'"),
        (("main", "summarizer", "read", "docs.q", "pii"), True, "under 'pii'"),
        (("main", "summarizer", "read", "docs.q", "finance"), False, "shared, pii only"),
        (("main", "summarizer", "read", "once.sum"), True, "results of `once`"),
        (("main", "summarizer", "write", "once.sum"), True, "results of `once`"),
        (("main", "summarizer", "write", "docs.q"), False, 'write = [{ topics = ["docs.q"] }]'),
        (("main", "summarizer", "write", "x", "pii"), False, 'labels = ["pii"]'),
        (("main", "summarizer", "write", "docs.summary"), True, "'docs.summary.>' under 'shared'"),
        (("main", "summarizer", "read", "questions.billing"), False, "what it wrote there itself"),
        (("main", "summarizer", "read", "answers.questions.billing"), True, "answers.questions"),
        (("main", "summarizer", "write", "answers.questions.billing"), False, "`answer` of"),
        (("main", "desk-42", "read", "cases.1", "shared", "customer-42"), True, "customer-42"),
        (("main", "desk-42", "read", "cases.1", "shared", "customer-7"), False, "only, not about"),
        (("main", "desk-42", "read", "cases.1"), False, "not about nobody in particular"),
        (("main", "desk-42", "write", "cases.1", "pii"), True, "under every label"),
        (("main", "desk-42", "read", "once.sum"), False, "none of its roles"),
        (("main", "stranger", "read", "docs.q"), False, "blackboard access add stranger"),
        (("other", "summarizer", "read", "docs.q"), False, "it has: main, lab"),
        (("main", "cli", "write", "docs.q", "pii"), True, "operator"),
        (("main", "probe", "write", "docs.q", "pii"), False, "forgeries"),
    ],
)
def test_a_decision_gives_its_reason(
    policy: Policy, question: tuple[str, str, Act, str], allowed: object, said: str
):
    decision = decide(policy, *question)

    assert decision.allowed is allowed
    assert said in decision.reason


def test_decisions_are_those_of_the_rights(policy: Policy):
    rng = random.Random(7)
    topics = ["docs", "docs.q", "docs.summary.a", "once.x", "cases.1", "letters.1", "other"]
    topics += ["questions.billing", "answers.questions.billing"]
    labels = ["shared", "pii", "finance", "user-customer-42", "user-x"]
    users = [None, "customer-42", "x", "y"]
    everything = list(product(policy.agents(), ("read", "write"), topics, labels, users))

    for (board, agent), act, topic, label, user in rng.sample(everything, 400):
        rights = policy.rights(board, agent)
        assert rights is not None
        may = rights.may_read(label, topic, user)
        if act == "write":
            may = rights.may_write(label, topic)
        assert decide(policy, board, agent, act, topic, label, user).allowed == may


def test_a_question_about_no_topic_is_refused(policy: Policy):
    with pytest.raises(InvalidError):
        decide(policy, "main", "summarizer", "read", "docs.>")
    with pytest.raises(InvalidError):
        decide(policy, "main", "summarizer", "read", "docs", "p.ii")
