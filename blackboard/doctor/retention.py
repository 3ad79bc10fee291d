"""Whether personal data has an end: every personal label needs a rule with an age."""

from collections.abc import AsyncGenerator

from blackboard.board import Blackboard
from blackboard.doctor.check import Check
from blackboard.keeping import policy_of
from blackboard.retention import PERSONAL, RETENTION, Retention, Rule
from blackboard.subjects import Pattern, memory_stream

NAME = "retention"
DO = (
    'write a retention policy with [[retain]] labels = ["{label}"] and max_age = "30d", and put it '
    "on the board: blackboard retention apply FILE"
)


async def checks(board: Blackboard) -> AsyncGenerator[Check]:
    """Look at the policy, and at what lies under personal labels."""
    connection = board.session.connection
    policy = await policy_of(connection, board.name)
    if policy is None:
        info = await connection.stream(memory_stream(board.name))
        if info is not None and RETENTION in (info.config.get("metadata") or {}):
            text = "the policy on this board cannot be read, so nothing goes by it"
            yield Check(NAME, "fail", text, "put it there again: blackboard retention apply FILE")
            return
    known = policy or Retention()
    complaints = 0
    for label, blamed in known.uncovered().items():
        if policy is not None or await _lies_there(board, label):
            complaints += 1
            yield Check(NAME, "fail", _complaint(label, blamed), DO.format(label=label))
    if not complaints:
        yield Check(NAME, "ok", _all_well(policy))


def _all_well(policy: Retention | None) -> str:
    if policy is None:
        return f"no policy: everything stays, and nothing lies under {', '.join(PERSONAL)}"
    rules = "1 rule" if len(policy.rules) == 1 else f"{len(policy.rules)} rules"
    labels = ", ".join(policy.personal) or "none"
    return f"{rules}; personal labels ({labels}) have an age"


def _complaint(label: str, blamed: Rule | None) -> str:
    if blamed is not None:
        return f"the rule for {blamed} lets what is under the personal label {label!r} stay"
    return f"no rule gives an age to what lies under the personal label {label!r}"


async def _lies_there(board: Blackboard, label: str) -> bool:
    """Whether there is something under a label that counts as personal where nobody says."""
    subject = Pattern(">").subject(board.name, access=label)
    return await board.log.reads.last(subject) is not None
