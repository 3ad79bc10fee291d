"""The access policy: which agent of which board holds which roles, and what that allows.

    [roles.analyst]
    read  = [{ topics = ["docs.>", "reports.>"], labels = ["shared", "pii"] }]
    write = [{ topics = ["docs.summary.>"] }]

    [boards.main.agents.summarizer]
    roles = ["analyst"]

Labels that `served` names at the head of the file are read through the steward only, which records
each read before it answers: `served = ["pii", "customer-{user}"]`, or `["*"]` for all of them. Who
may read every label (`*`) reads through it as soon as one is served, since no allow list leaves out
a label.

A policy is taken whole or not at all: what cannot be meant, and what the broker could not enforce,
is refused with its line before anything changes. What is not granted is denied.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import msgspec

from blackboard.access.identity import SYSTEM
from blackboard.access.rights import RESERVED, Grant, Quota, Rights, reserved_rights
from blackboard.access.roles import Act, Held, Role, Served, read_roles, read_served
from blackboard.access.source import Node, Source
from blackboard.errors import InvalidError, SettingsError
from blackboard.subjects import check_name, check_token

AGENT_KEYS = ("roles", "handlers", "users", "limits")
LIMITS = ("message_bytes", "messages_per_s", "connections")
KEPT = RESERVED | {SYSTEM}
"""Names that no agent may have, and no board: each is part of somebody's inbox or credential."""
MAX_MESSAGE_BYTES = 1 << 20
"""What a broker takes of one message unless it was told otherwise."""


@dataclass(frozen=True, slots=True)
class Member:
    """An agent of a board, as the policy declares it.

    Attributes:
        board: Its board.
        agent: Its name there.
        roles: The names of its roles.
        users: The data subjects it serves; none means that its rights are not limited to any.
        reads: Its rights to read, and the role each comes from.
        writes: Its rights to write, likewise.
        rights: The same as the services see them.
    """

    board: str
    agent: str
    roles: tuple[str, ...]
    users: tuple[str, ...]
    reads: tuple[Held, ...]
    writes: tuple[Held, ...]
    rights: Rights

    def held(self, act: Act) -> tuple[Held, ...]:
        """Its rights of one kind."""
        return self.reads if act == "read" else self.writes


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy that was read and found right.

    Attributes:
        name: What the file is called in errors.
        digest: SHA-256 of what it says, in hex; comments and layout do not count.
        roles: By name.
        members: The agents, by board and name.
    """

    name: str
    digest: str
    roles: dict[str, Role]
    members: dict[tuple[str, str], Member]

    @classmethod
    def parse(cls, text: str, name: str = "access.toml") -> "Policy":
        """Read a policy.

        Args:
            text: What the file holds.
            name: What to call it in errors.

        Raises:
            SettingsError: `<name>:<line>: <what is wrong, and what to do>`.
        """
        root = Source(text, name).root()
        parts = root.table("served", "roles", "boards")
        digest = hashlib.sha256(msgspec.json.encode(root.value, order="sorted")).hexdigest()
        roles = read_roles(parts["roles"]) if "roles" in parts else {}
        served = read_served(parts["served"], roles) if "served" in parts else ()
        reader = _Reader(roles, served, digest)
        members: dict[tuple[str, str], Member] = {}
        boards = parts["boards"].table() if "boards" in parts else {}
        _check_boards(boards)
        for board, node in boards.items():
            for agent, body in _agents(node).items():
                members[board, agent] = reader.member(board, agent, body)
        return cls(name, digest, roles, members)

    @classmethod
    def load(cls, path: Path) -> "Policy":
        """Read a policy file.

        Raises:
            SettingsError: It cannot be read, or something in it is wrong.
        """
        try:
            return cls.parse(path.read_text("utf-8"), str(path))
        except OSError as error:
            raise SettingsError(
                f"cannot read the access policy {str(path)!r} ({error.strerror})"
            ) from error
        except UnicodeDecodeError as error:
            raise SettingsError(f"the access policy {str(path)!r} is not UTF-8 text") from error

    def agents(self) -> list[tuple[str, str]]:
        """Board and name of every agent, in the order of the file."""
        return list(self.members)

    def boards(self) -> list[str]:
        """The boards that have agents, in the order of the file."""
        return list(dict.fromkeys(board for board, _ in self.members))

    def rights(self, board: str, agent: str) -> Rights | None:
        """What somebody may do on a board; None for who is not in the policy, which means nothing.

        Names of the command line and the services have their rights on every board.
        """
        member = self.members.get((board, agent))
        return reserved_rights(board, agent) if member is None else member.rights


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads agents against the roles; remembers which sets of rights were found right."""

    roles: dict[str, Role]
    served: tuple[Served, ...]
    digest: str
    checked: set[tuple[Held, ...]] = field(default_factory=set[tuple[Held, ...]])

    def member(self, board: str, agent: str, node: Node) -> Member:
        """Read one agent."""
        try:
            check_name("agent", agent)
        except InvalidError as error:
            raise node.failure(str(error)) from error
        if agent in KEPT:
            raise node.failure(
                f"the name {agent!r} is kept for the command line and the services; take another"
            )
        parts = node.table(*AGENT_KEYS)
        users = tuple(parts["users"].texts()) if "users" in parts else ()
        roles = self._roles(agent, node, parts.get("roles"))
        _check_users(agent, users, roles, node, parts.get("users"))
        reads = _distinct(held for role in roles for held in role.held("read", users))
        writes = _distinct(held for role in roles for held in role.held("write", users))
        self._check_filters(parts["roles"], f"agent {agent!r} of board {board!r}", reads)
        labels = dict.fromkeys(held.grant.access for held in (*reads, *writes))
        rights = Rights(
            board=board,
            agent=agent,
            read=tuple(dict.fromkeys(held.grant for held in reads)),
            write=tuple(dict.fromkeys(held.grant for held in writes)),
            served=tuple(label for label in labels if any(one.holds(label) for one in self.served)),
            quota=_quota(parts["limits"]) if "limits" in parts else Quota(),
            digest=self.digest,
        )
        if "handlers" in parts:
            handlers = _handlers(agent, parts["handlers"], rights)
            rights = msgspec.structs.replace(rights, handlers=handlers)
        names = tuple(role.name for role in roles)
        return Member(board, agent, names, users, reads, writes, rights)

    def _roles(self, agent: str, node: Node, named: Node | None) -> list[Role]:
        known = ", ".join(self.roles) or "none"
        if named is None:
            raise node.failure(
                f"agent {agent!r} has no roles, so it may do nothing; "
                f"give it some (the file has: {known}) or take it out"
            )
        names = named.texts()
        for name in names:
            if name not in self.roles:
                raise named.failure(f"there is no role {name!r}; the file has: {known}", at=name)
        return [self.roles[name] for name in names]

    def _check_filters(self, node: Node, who: str, held: Sequence[Held]) -> None:
        """Refuse rights to read that no consumer could be filtered by.

        Raises:
            SettingsError: Two of them have some topics in common, and neither holds the other.
        """
        rights = tuple(one for one in held if one.grant.user is None)
        if rights in self.checked:
            return
        for one, other in combinations(rights, 2):
            mine, theirs = one.grant, other.grant
            if mine.overlaps(theirs) and not (mine.within(theirs) or theirs.within(mine)):
                raise self._partly(node, who, one, other)
        self.checked.add(rights)

    def _partly(self, node: Node, who: str, one: Held, other: Held) -> SettingsError:
        mine, theirs = one.grant, other.grant
        if mine.access == theirs.access:
            do = (
                "filters by patterns that do not overlap; grant one that holds both, such as "
                f"{_both(mine, theirs)!r}, or two that are apart"
            )
        else:
            do = "filters by labels that do not overlap; write the labels out instead of '*'"
        text = (
            f"{who}: the rights to read {mine.topic!r} under label {mine.access!r} (role "
            f"{one.role!r}) and {theirs.topic!r} under {theirs.access!r} (role {other.role!r}) "
            f"overlap only in part, and the broker {do}"
        )
        if one.role != other.role:
            return node.failure(text, at=other.role)
        right = next(r for r in self.roles[other.role].rights if r.topic == theirs.topic)
        return right.node.failure(text, at=theirs.topic)


def _agents(node: Node) -> dict[str, Node]:
    parts = node.table("agents")
    if "agents" not in parts:
        raise node.failure(f"{node} has no agents; take it out, or add [{node}.agents.NAME]")
    return parts["agents"].table()


def _check_boards(boards: dict[str, Node]) -> None:
    seen: dict[str, str] = {}
    for board, node in boards.items():
        try:
            check_token("board", board)
        except InvalidError as error:
            raise node.failure(str(error)) from error
        if board in KEPT:
            raise node.failure(f"the name {board!r} is kept for the services; take another")
        # Credentials lie in a directory per board, and some file systems ignore the case.
        other = seen.setdefault(board.lower(), board)
        if other != board:
            raise node.failure(f"boards {other!r} and {board!r} differ in case only; rename one")


def _check_users(
    agent: str, users: Sequence[str], roles: Sequence[Role], node: Node, named: Node | None
) -> None:
    for role in roles:
        if role.serves_users and named is None:
            raise node.failure(
                f"role {role.name!r} has a label with {{user}}, and agent {agent!r} has no users; "
                "give it users, or another role"
            )
        for right in role.rights:
            for grant in right.grants(users):
                try:
                    _ = grant.access == "*" or check_token("label", grant.access)
                except InvalidError as error:
                    raise (named or node).failure(
                        f"a user of agent {agent!r} makes a label of role {role.name!r} that is "
                        f"none: {error}"
                    ) from error


def _handlers(agent: str, node: Node, rights: Rights) -> tuple[str, ...]:
    names = node.texts()
    for name in names:
        try:
            check_name("handler", name)
        except InvalidError as error:
            raise node.failure(str(error), at=name) from error
    if not rights.readable(">"):
        limited = " but such as are limited to users, which the broker cannot filter by"
        raise node.failure(
            f"agent {agent!r} has handlers and no right to read"
            f"{limited if rights.read else ''}; add one to its roles"
        )
    return tuple(names)


def _quota(node: Node) -> Quota:
    values: dict[str, float] = {}
    for key, entry in node.table(*LIMITS).items():
        value = entry.value
        whole = key != "messages_per_s"
        if type(value) is not int and (whole or type(value) is not float):
            raise entry.failure(f"{key} must be a {'whole ' if whole else ''}number")
        if not 0 < value < float("inf"):
            raise entry.failure(f"{key} = {value} allows nothing; leave it out for no limit")
        if key == "message_bytes" and value > MAX_MESSAGE_BYTES:
            raise entry.failure(
                f"message_bytes = {value} is above what the broker takes ({MAX_MESSAGE_BYTES})"
            )
        values[key] = value
    return msgspec.convert(values, Quota)


def _distinct(held: Iterable[Held]) -> tuple[Held, ...]:
    return tuple(dict.fromkeys(held))


def _both(one: Grant, other: Grant) -> str:
    """A pattern that holds two: what they begin with, and anything behind it."""
    common: list[str] = []
    for mine, theirs in zip(one.topic.split("."), other.topic.split("."), strict=False):
        if mine == ">" or theirs == ">":
            break
        common.append(mine if mine == theirs else "*")
    while common and common[-1] == "*":
        common.pop()
    return ".".join([*common, ">"])
