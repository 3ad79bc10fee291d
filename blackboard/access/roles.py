"""Roles: named sets of rights, as the policy file writes them.

A right names topics and labels. `ask` and `answer` are two rights each in one word: who asks writes
the question and reads `answers.` of it, who answers does the reverse. In a label, `{user}` stands
for each of the agent's users, so that the broker itself can keep what is about one of them apart.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from blackboard.access.rights import ANY, Grant
from blackboard.access.source import Node
from blackboard.errors import InvalidError
from blackboard.subjects import ANSWERS, SHARED, Pattern, check_token

Act = Literal["read", "write"]
USER = "{user}"
_USER = re.escape(USER)
KINDS = ("read", "write", "ask", "answer")


class Held(NamedTuple):
    """A right somebody holds, and the role that it comes from."""

    role: str
    grant: Grant


@dataclass(frozen=True, slots=True)
class Right:
    """One topic of one right of a role.

    Attributes:
        act: What it lets its holder do.
        label: An access label, `*`, or a text with `{user}`.
        topic: A pattern.
        node: Where it stands in the file.
    """

    act: Act
    label: str
    topic: str
    node: Node

    def grants(self, users: Sequence[str]) -> list[Grant]:
        """What it comes to for an agent that serves these users; none means that it serves all.

        Rights to write are not limited to users: nobody but the writer says whom a memory is about.
        """
        if USER in self.label:
            return [Grant(self.label.replace(USER, user), self.topic) for user in users]
        if self.act == "write" or not users:
            return [Grant(self.label, self.topic)]
        return [Grant(self.label, self.topic, user) for user in users]


@dataclass(frozen=True, slots=True)
class Role:
    """A named set of rights."""

    name: str
    rights: tuple[Right, ...]
    node: Node

    @property
    def serves_users(self) -> bool:
        """Whether one of its labels is made from the user."""
        return any(USER in right.label for right in self.rights)

    def held(self, act: Act, users: Sequence[str]) -> Iterator[Held]:
        """Its rights of one kind, for an agent that serves these users."""
        for right in self.rights:
            if right.act == act:
                for grant in right.grants(users):
                    yield Held(self.name, grant)


class Served(NamedTuple):
    """A label, as the policy names it, that is read through the steward only."""

    label: str

    def holds(self, label: str) -> bool:
        """Whether rights to a label are served: the label itself, or all, this one among them."""
        if ANY in (self.label, label):
            return True
        return (
            re.fullmatch(re.escape(self.label).replace(_USER, "[A-Za-z0-9_-]+"), label) is not None
        )


def read_served(node: Node, roles: Mapping[str, Role]) -> tuple[Served, ...]:
    """Read which labels are served.

    Raises:
        SettingsError: One of them is no label, or stands in no right; the text names the line.
    """
    used = {right.label for role in roles.values() for right in role.rights}
    found = [Served(label) for label in node.texts()]
    for one in found:
        _check_label(one.label, node)
        if not any(one.holds(label.replace(USER, "u")) for label in used):
            known = ", ".join(sorted(used)) or "none"
            raise node.failure(
                f"label {one.label!r} is served and stands in no right; the file has: {known}",
                at=one.label,
            )
    return tuple(found)


def read_roles(node: Node) -> dict[str, Role]:
    """Read the table of roles.

    Raises:
        SettingsError: Something in it is wrong; the text names the line.
    """
    roles: dict[str, Role] = {}
    for name, body in node.table().items():
        try:
            check_token("role", name)
        except InvalidError as error:
            raise body.failure(str(error)) from error
        rights = [
            right
            for kind, entries in body.table(*KINDS).items()
            for entry in entries.entries()
            for right in _rights(kind, entry)
        ]
        if not rights:
            raise body.failure(f"role {name!r} grants nothing; give it rights or take it out")
        roles[name] = Role(name, tuple(rights), body)
    return roles


def _rights(kind: str, node: Node) -> Iterator[Right]:
    if {"user", "users"} & node.table().keys():
        raise node.failure(
            "rights name no users; give `users = [...]` to the agent, which limits what it reads "
            "(what it writes about whom cannot be limited)"
        )
    entry = node.table("topics", "labels")
    if "topics" not in entry:
        raise node.failure('a right needs topics, such as topics = ["docs.>"]')
    labels = entry["labels"].texts() if "labels" in entry else [SHARED]
    for label in labels:
        _check_label(label, entry.get("labels", node))
    for topic in entry["topics"].texts():
        for act, pattern in _meaning(kind, topic):
            try:
                Pattern.parse(pattern)
            except InvalidError as error:
                raise entry["topics"].failure(str(error), at=topic) from error
            for label in labels:
                yield Right(act, label, pattern, node)


def _meaning(kind: str, topic: str) -> list[tuple[Act, str]]:
    answers = f"{ANSWERS}.{topic}"
    meanings: dict[str, list[tuple[Act, str]]] = {
        "read": [("read", topic)],
        "write": [("write", topic)],
        "ask": [("write", topic), ("read", answers)],
        "answer": [("read", topic), ("write", answers)],
    }
    return meanings[kind]


def _check_label(label: str, node: Node) -> None:
    if label == ANY:
        return
    try:
        check_token("label", label.replace(USER, "u"))
    except InvalidError as error:
        text = f"label {label!r} is none: {error}" if USER in label else str(error)
        raise node.failure(text, at=label) from error
