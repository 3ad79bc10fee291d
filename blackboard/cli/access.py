"""Commands for the access policy: what it says, what it decides, and changing it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from cyclopts import App, Parameter

from blackboard.access import Member, Policy, decide
from blackboard.access.amendment import with_member, without_member
from blackboard.access.keys import Keyring
from blackboard.access.rights import Grant
from blackboard.access.roles import Act, Held
from blackboard.cli.output import say, say_json, table
from blackboard.cli.place import HERE, Place
from blackboard.cli.policies import LOCAL, OwnBroker, Store, enrol_at, find_store, read_policy
from blackboard.codec import Json, to_json
from blackboard.enrolment import Enrolled
from blackboard.errors import InvalidError, SettingsError
from blackboard.subjects import SHARED

ACTS: tuple[Act, ...] = ("read", "write")

access = App(
    name="access",
    help_epilogue=(
        "Example:\n\n    blackboard up --access access.toml\n    blackboard access check\n"
        "    blackboard access can summarizer read docs.q3 --label pii"
    ),
)


@access.default
def overview(*, place: Place = HERE) -> None:
    """Say who may read and write what; add, revoke and renew agents.

    Args:
        place: Whose policy, by its --data.
    """
    check(place=place)


@access.command(help_epilogue="Example:\n\n    blackboard access check access.toml")
def check(file: Path | None = None, *, place: Place = HERE) -> None:
    """Explain a policy: the agents, what each may read and write, and its limits.

    A policy with an error is refused with the line. Rights that are limited to
    users are enforced by the services; all others by the broker itself. What
    lies under a served label is read through the steward only.

    Args:
        file: The policy; by default that of the local stack.
        place: Whose policy, by its --data.
    """
    policy = _policy(file, place)
    unused = policy.roles.keys() - {
        role for member in policy.members.values() for role in member.roles
    }
    if place.as_json:
        agents = [_tree(member) for member in policy.members.values()]
        say_json({"digest": policy.digest, "agents": agents, "unused_roles": sorted(unused)})
        return
    _print(policy)
    if unused:
        say(f"\nroles that no agent has: {', '.join(sorted(unused))}")


@access.command(
    help_epilogue=(
        "Example:\n\n    blackboard access can summarizer read docs.q3 --label pii\n"
        "    blackboard access can desk-42 read cases.1 --user customer-42 --file access.toml"
    )
)
def can(
    agent: str,
    act: Literal["read", "write"],
    topic: str,
    *,
    label: str = SHARED,
    user: str | None = None,
    file: Path | None = None,
    place: Place = HERE,
) -> int:
    """Say whether an agent may read or write a topic, and why.

    Args:
        agent: Who.
        act: What it would do.
        topic: A topic, not a pattern.
        label: Access label of the memory.
        user: Whom the memory is about.
        file: The policy; by default that of the local stack.
        place: The agent's board, and whose policy, by its --data.

    Returns:
        The exit code: 0 when it may, 1 when not.
    """
    policy = _policy(file, place)
    board = place.settings().board
    decision = decide(policy, board, agent, act, topic, label, user)
    if place.as_json:
        say_json({"allowed": decision.allowed, "reason": decision.reason, "board": board})
    else:
        say(f"{'yes' if decision.allowed else 'no'}: {decision.reason}")
    return 0 if decision.allowed else 1


@access.command(
    help_epilogue=(
        "Example:\n\n    blackboard access apply access.toml\n"
        "    blackboard access apply access.toml --config accounts.conf --credentials keys"
    )
)
async def apply(
    file: Path | None = None,
    *,
    config: Path | None = None,
    credentials: Path | None = None,
    place: Place = HERE,
) -> None:
    """Put a policy in force, without disconnecting anybody who keeps some right.

    The local stack takes it at once. For a broker of your own this writes what
    its configuration includes, and the credentials; reload the broker, then
    tell the services with `blackboard access publish`.

    Args:
        file: The policy; by default that of the local stack, as it is now.
        config: For a broker of your own: the file to write.
        credentials: For a broker of your own: the folder of the credentials.
        place: The local stack, by its --data.
    """
    own = LOCAL
    if config is not None or credentials is not None:
        if file is None:
            raise SettingsError("for a broker of your own, name the policy: access apply FILE …")
        own = OwnBroker(policy=file, config=config, credentials=credentials)
    store = find_store(place.settings(), own)
    text = store.read() if file is None else read_policy(file)
    enrolled = await store.put_in_force(text)
    _report(place, store, enrolled, {"agents": len(Policy.parse(text).members)})


@access.command(
    help_epilogue=(
        "Example:\n\n    blackboard access publish access.toml --credentials keys "
        "--url nats://a:4222,nats://b:4222"
    )
)
async def publish(file: Path, *, credentials: Path, place: Place = HERE) -> None:
    """Tell the services of a broker of your own who may do what, once it was reloaded.

    Args:
        file: The policy that the broker has in force.
        credentials: The folder of the credentials.
        place: The broker, by its --url.
    """
    url = place.settings().url
    if url is None:
        raise SettingsError("say where the broker is, with --url; a local stack is told by `apply`")
    policy, keyring = Policy.load(file), Keyring(credentials)
    enrolled = await enrol_at(url, keyring.path("cli"), policy, keyring)
    _report(place, None, enrolled, {"agents": len(policy.members)})


@access.command(
    help_epilogue=(
        "Example:\n\n    blackboard access add critic --role analyst --handler review --board lab"
    )
)
async def add(
    agent: str,
    *,
    role: list[str],
    handler: Annotated[list[str] | None, Parameter(negative=())] = None,
    user: Annotated[list[str] | None, Parameter(negative=())] = None,
    own: OwnBroker = LOCAL,
    place: Place = HERE,
) -> None:
    """Add an agent to the policy, make its credential, and put it in force.

    Args:
        agent: Its name.
        role: A role of the policy; may be given several times.
        handler: A handler that needs a durable consumer; may be given several times.
        user: A data subject that it serves; may be given several times. None: all.
        own: The files of a broker of your own.
        place: The board, and the local stack, by its --data.
    """
    settings = place.settings()
    store = find_store(settings, own)
    amended = with_member(
        store.read(),
        str(store.policy),
        settings.board,
        agent,
        roles=role,
        handlers=handler or (),
        users=user or (),
    )
    enrolled = await store.put_in_force(amended)
    _report(place, store, enrolled, _credential(store, settings.board, agent))


@access.command(help_epilogue="Example:\n\n    blackboard access revoke critic --board lab")
async def revoke(agent: str, *, own: OwnBroker = LOCAL, place: Place = HERE) -> None:
    """Take an agent out of the policy; its connections are cut at once.

    Its credential is removed: should it be added again, it gets a new one. What
    it wrote stays.

    Args:
        agent: Its name.
        own: The files of a broker of your own.
        place: The board, and the local stack, by its --data.
    """
    settings = place.settings()
    store = find_store(settings, own)
    amended = without_member(store.read(), str(store.policy), settings.board, agent)
    enrolled = await store.put_in_force(amended)
    store.keyring.remove(agent, settings.board)
    _report(place, store, enrolled, {"agent": agent, "board": settings.board})


@access.command(help_epilogue="Example:\n\n    blackboard access rotate critic --board lab")
async def rotate(agent: str, *, own: OwnBroker = LOCAL, place: Place = HERE) -> None:
    """Give an agent a new key; who has the old one is cut off at once.

    Args:
        agent: Its name.
        own: The files of a broker of your own.
        place: The board, and the local stack, by its --data.
    """
    settings = place.settings()
    store = find_store(settings, own)
    text = store.read()
    if (settings.board, agent) not in Policy.parse(text, str(store.policy)).members:
        raise InvalidError(f"the policy has no agent {agent!r} on board {settings.board!r}")
    store.keyring.rotate(agent, settings.board)
    enrolled = await store.put_in_force(text)
    _report(place, store, enrolled, _credential(store, settings.board, agent))


def _policy(file: Path | None, place: Place) -> Policy:
    if file is not None:
        return Policy.load(file)
    store = find_store(place.settings(), LOCAL)
    store.read()
    return Policy.load(store.policy)


def _credential(store: Store, board: str, agent: str) -> dict[str, str]:
    path = store.keyring.path(agent, board)
    return {"agent": agent, "board": board, "credential": str(path.absolute())}


def _report(
    place: Place, store: Store | None, enrolled: Enrolled | None, facts: dict[str, Json]
) -> None:
    """Say what was done, and what is left to do."""
    done = None if enrolled is None else enrolled._asdict()
    config = None if store is None or store.config is None else str(store.config.absolute())
    if place.as_json:
        say_json({**facts, "config": config, "services": to_json(done) if done else None})
        return
    for name, value in facts.items():
        say(f"{name}: {value}")
    if enrolled is None:
        say(f"written: {config}, which the broker's configuration has to include")
        say("now reload each server (SIGHUP, or nats-server --signal reload), then run:")
        say("    blackboard access publish POLICY --credentials FOLDER --url URL")
        return
    for what, names in (("granted", enrolled.granted), ("revoked", enrolled.revoked)):
        if names:
            say(f"{what}: {_names(names)}")
    if enrolled.boards:
        say(f"made boards: {', '.join(enrolled.boards)}")
    say("in force")


def _names(names: Sequence[tuple[str, str]]) -> str:
    shown = ", ".join(f"{agent} of {board}" for board, agent in names[:10])
    return shown + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def _tree(member: Member) -> dict[str, Json]:
    rights = member.rights
    return {
        "board": member.board,
        "agent": member.agent,
        "roles": list(member.roles),
        "users": list(member.users),
        "handlers": list(rights.handlers),
        "limits": to_json(msgspec.to_builtins(rights.quota)),
        "read": [_right(*held, served=_served(member, "read", held)) for held in member.reads],
        "write": [_right(*held, served=False) for held in member.writes],
    }


def _served(member: Member, act: Act, held: Held) -> bool:
    """Whether reads by this right go through the steward."""
    label = held.grant.access
    return act == "read" and (held.grant.user is not None or label in member.rights.served)


def _right(role: str, grant: Grant, *, served: bool) -> dict[str, Json]:
    return {
        "topics": grant.topic,
        "label": grant.access,
        "user": grant.user,
        "role": role,
        "enforced_by": "broker" if grant.user is None else "services",
        "served": served,
    }


def _print(policy: Policy) -> None:
    if not policy.members:
        say("no agents: nobody but the command line and the services may do anything")
        return
    table(
        ["board", "agent", "roles", "handlers", "users", "limits"],
        [
            [
                member.board,
                member.agent,
                member.roles,
                member.rights.handlers,
                member.users,
                msgspec.to_builtins(member.rights.quota),
            ]
            for member in policy.members.values()
        ],
    )
    say()
    table(
        ["board", "agent", "may", "topics", "label", "role", "enforced by"],
        [
            [member.board, member.agent, act, *_cells(*held, served=_served(member, act, held))]
            for member in policy.members.values()
            for act in ACTS
            for held in member.held(act)
        ],
    )


def _cells(role: str, grant: Grant, *, served: bool) -> list[str]:
    label = "every" if grant.access == "*" else grant.access
    if grant.user is None:
        by = "broker; read through the steward" if served else "broker"
        return [grant.topic, label, role, by]
    return [grant.topic, label, role, f"services, about {grant.user} only"]
