"""Changes to a policy file that leave the rest of it as its writer wrote it, comments included."""

import json
import tomllib
from collections.abc import Sequence
from typing import Any

from blackboard.access.policy import Policy
from blackboard.access.source import Source
from blackboard.errors import SettingsError


def with_member(
    text: str,
    name: str,
    board: str,
    agent: str,
    *,
    roles: Sequence[str],
    handlers: Sequence[str] = (),
    users: Sequence[str] = (),
) -> str:
    """The policy with one agent more, at its end.

    Args:
        text: The policy.
        name: What to call it in errors.
        board: The agent's board.
        agent: Its name.
        roles: What it is, of the roles that the policy has.
        handlers: Those of its handlers that need a durable consumer.
        users: The data subjects it serves; none for all.

    Raises:
        SettingsError: It is there already, or the policy with it would be refused.
    """
    if (board, agent) in Policy.parse(text, name).members:
        raise SettingsError(
            f"{name} has agent {agent!r} on board {board!r} already; change it there and run "
            f"`blackboard access apply`, or give it a new key: blackboard access rotate {agent}"
        )
    entries = {"roles": roles, "handlers": handlers, "users": users}
    lines = [f"{key} = {_array(values)}" for key, values in entries.items() if values]
    header = ".".join(["boards", _key(board), "agents", _key(agent)])
    end = "" if text.endswith("\n") or not text else "\n"
    amended = "\n".join([f"{text}{end}", f"[{header}]", *lines, ""])
    Policy.parse(amended, name)
    return amended


def without_member(text: str, name: str, board: str, agent: str) -> str:
    """The policy without one agent.

    Raises:
        SettingsError: It is not there, or is written so that it cannot be taken out by itself.
    """
    if (board, agent) not in Policy.parse(text, name).members:
        raise SettingsError(f"{name} has no agent {agent!r} on board {board!r}")
    amended = Source(text, name).without(("boards", board, "agents", agent))
    wanted = tomllib.loads(text)
    del wanted["boards"][board]["agents"][agent]
    if _pruned(tomllib.loads(amended)) != _pruned(wanted):
        raise SettingsError(
            f"{name} does not have agent {agent!r} in a table of its own; take it out there by "
            "hand and run `blackboard access apply`"
        )
    Policy.parse(amended, name)
    return amended


def _pruned(tree: dict[str, Any]) -> dict[str, Any]:
    """Without the boards that have no agents left: a header does not say that there are none."""
    boards = {name: board for name, board in tree.get("boards", {}).items() if board.get("agents")}
    return {**tree, "boards": boards}


def _array(values: Sequence[str]) -> str:
    return f"[{', '.join(_key(value, bare=False) for value in values)}]"


def _key(text: str, *, bare: bool = True) -> str:
    """A string as TOML has it; JSON's strings are such, but for a character that is no text."""
    return (
        text
        if bare and text.replace("-", "").replace("_", "").isalnum()
        else json.dumps(text, ensure_ascii=False)
    )
