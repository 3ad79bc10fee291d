"""Why something is allowed or not: the answer of the policy in words, for people.

It decides nothing of its own: whether is the rights' word, and a test holds the two together.
"""

from typing import NamedTuple

from blackboard.access.policy import Member, Policy
from blackboard.access.rights import ANY, Grant, Rights, reserved_rights
from blackboard.access.roles import Act, Held
from blackboard.subjects import ANSWERS, ONCE, SHARED, Pattern, check_token, check_topic


class Decision(NamedTuple):
    """Whether something is allowed, and why; when it is not, what to add."""

    allowed: bool
    reason: str


def decide(
    policy: Policy,
    board: str,
    agent: str,
    act: Act,
    topic: str,
    access: str = SHARED,
    user: str | None = None,
) -> Decision:
    """Say whether an agent may read or write a topic, and why.

    Args:
        policy: The policy.
        board: The agent's board.
        agent: Its name.
        act: `read` or `write`.
        topic: A topic, not a pattern.
        access: The label.
        user: Whom the memory is about; None for nobody.

    Raises:
        InvalidError: The topic or the label is none.
    """
    check_topic(topic)
    check_token("label", access)
    member = policy.members.get((board, agent))
    if member is None:
        return _outside(policy, board, agent, act, access)
    rights = member.rights
    if rights.may_read(access, topic, user) if act == "read" else rights.may_write(access, topic):
        return Decision(allowed=True, reason=_granted(member, act, topic, access, user))
    return Decision(allowed=False, reason=_denied(member, act, topic, access, user))


def _outside(policy: Policy, board: str, agent: str, act: Act, access: str) -> Decision:
    own = reserved_rights(board, agent)
    if own is not None and own.operator:
        return Decision(
            allowed=True, reason=f"{agent!r} is an operator's name, which no topic is closed to"
        )
    if own is not None:
        allowed = own.may_read(access, "any") if act == "read" else own.may_write(access, "any")
        return Decision(allowed, reason=f"{agent!r} tries forgeries, under label {agent!r} only")
    there = [name for its, name in policy.members if its == board]
    if not there:
        known = ", ".join(policy.boards()) or "none"
        return Decision(allowed=False, reason=f"the policy has no board {board!r}; it has: {known}")
    return Decision(
        allowed=False,
        reason=f"the policy has no agent {agent!r} on board {board!r}; add it to the policy, "
        f"for example with: blackboard access add {agent} --role ROLE --board {board}",
    )


def _granted(member: Member, act: Act, topic: str, access: str, user: str | None) -> str:
    held = member.held(act)
    for role, grant in held:
        if grant.holds(access, topic, user):
            about = "" if grant.user is None else f" about user {grant.user!r}"
            through = _through(member, act, grant)
            return f"role {role!r} lets it {act} {_named(grant)}{about}{through}"
    role, grant = next(one for one in held if _implies_once(one, access))
    return (
        f"role {role!r} lets it {act} under label {grant.access!r}, "
        f"which includes results of `once` (topics {ONCE}.>){_through(member, act, grant)}"
    )


def _through(member: Member, act: Act, grant: Grant) -> str:
    if act == "write" or (grant.user is None and grant.access not in member.rights.served):
        return ""
    return ", through the steward, which records each read before it answers"


def _implies_once(held: Held, access: str) -> bool:
    return held.grant.user is None and held.grant.access in (ANY, access)


def _denied(member: Member, act: Act, topic: str, access: str, user: str | None) -> str:
    held = member.held(act)
    roles = ", ".join(member.roles)
    near = [one for one in held if Pattern(one.grant.topic).matches(topic)]
    under = [one for one in near if one.grant.access in (ANY, access)]
    if under:  # so only the user is wrong
        users = ", ".join(dict.fromkeys(str(one.grant.user) for one in under))
        whom = "nobody in particular" if user is None else f"user {user!r}"
        reason = f"it reads this topic about {users} only, not about {whom}"
        return f"{reason}; add the user to its `users`, or take them out to let it read all"
    if near:
        role = near[0].role
        labels = ", ".join(dict.fromkeys(one.grant.access for one in near))
        reason = f"role {role!r} lets it {act} this topic under {labels} only, not under {access!r}"
        return f"{reason}; add the label to the right: labels = [..., {access!r}]"
    label = "" if access == SHARED else f', labels = ["{access}"]'
    right = f'{act} = [{{ topics = ["{topic}"]{label} }}]'
    other = _other(member.rights, act, topic, access)
    return f"none of its roles ({roles}) lets it {act} this topic{other}; add to one: {right}"


def _other(rights: Rights, act: Act, topic: str, access: str) -> str:
    if act == "read" and rights.may_write(access, topic):
        return " (but what it wrote there itself it may read)"
    first, _, question = topic.partition(".")
    if first == ANSWERS:
        return f" (`ask` and `answer` of {question or 'a topic'!r} include it)"
    return ""


def _named(grant: Grant) -> str:
    return f"{grant.topic!r} under {'every label' if grant.access == ANY else repr(grant.access)}"
