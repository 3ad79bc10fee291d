"""Commands for retention: checking a policy file, putting it on the board, showing what holds."""

from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import App, Parameter

from blackboard.cli.holdings import age_of, name_of
from blackboard.cli.output import fields, say, say_json, table
from blackboard.cli.place import HERE, Place, opened
from blackboard.errors import DeniedError
from blackboard.keeping import policy_of, put_policy
from blackboard.retention import PERSONAL, Retention, read_retention

retention = App(
    name="retention",
    help_epilogue=(
        "Example:\n\n    blackboard retention check retention.toml\n"
        "    blackboard retention apply retention.toml\n"
        "    blackboard retention show --json"
    ),
)


class Shown(msgspec.Struct):
    """A policy as `--json` prints it."""

    board: str | None
    policy: Retention | None
    changed: bool | None = None


@retention.default
async def overview(*, place: Place = HERE) -> None:
    """Say how long memories stay; check, apply and show the policy.

    Without a command the policy of the board is shown.

    Args:
        place: The board.
    """
    await show(place=place)


@retention.command(help_epilogue="Example:\n\n    blackboard retention check retention.toml")
async def check(file: Path, /, *, place: Place = HERE) -> None:
    """Read a policy file and say what it means; nothing is changed.

    What cannot be meant is an error with its line. Every personal label needs a
    rule with max_age that holds on all topics.

    Args:
        file: The policy.
        place: Not asked; only --json counts.
    """
    _show(Shown(None, read_retention(file)), place)


@retention.command(help_epilogue="Example:\n\n    blackboard retention apply retention.toml")
async def apply(
    file: Path,
    /,
    *,
    dry_run: Annotated[bool, Parameter(name="--dry-run")] = False,
    place: Place = HERE,
) -> None:
    """Put a policy on the board, in place of the one it has.

    It holds for what is written from a few seconds later on, and for what lies
    there: the steward takes away what is too old already, so look at
    `blackboard stats` after a --dry-run. This takes an operator's credential.

    Args:
        file: The policy.
        dry_run: Only say whether it would change anything.
        place: The board.
    """
    policy = read_retention(file)
    async with opened(place) as board:
        identity = board.session.connection.identity
        if identity is not None and identity.restricted:
            raise DeniedError(
                f"agent {board.agent!r} may not change the retention policy: that takes an "
                "operator's credential"
            )
        before = await policy_of(board.session.connection, board.name)
        changed = before != policy
        if not dry_run and await put_policy(board.session.connection, board.name, policy):
            board.journal.audit("retain", policy.digest)
        name = board.name
    if place.as_json:
        say_json(Shown(name, policy, changed))
        return
    done = "would be in force" if dry_run else "in force within seconds"
    say(f"board {name}: {done}" if changed else f"board {name} has this policy already")


@retention.command(help_epilogue="Example:\n\n    blackboard retention show --json")
async def show(*, place: Place = HERE) -> None:
    """Show the policy of the board.

    What it holds and what it has removed is in `blackboard stats`.

    Args:
        place: The board.
    """
    async with opened(place) as board:
        policy = await policy_of(board.session.connection, board.name)
        name = board.name
    _show(Shown(name, policy), place)


def _show(shown: Shown, place: Place) -> None:
    policy = shown.policy
    if place.as_json:
        say_json(shown)
        return
    if policy is None:
        say(
            "no policy: everything stays. Labels that count as personal where none says "
            f"otherwise: {', '.join(PERSONAL)}"
        )
        return
    table(
        ["retention", "age", "a session", "before"],
        [
            [
                name_of(rule.topics, rule.labels),
                age_of(rule.max_age_s) or "",
                rule.max_per_session or "",
                rule.before if rule.max_age_s or rule.max_per_session else "keep",
            ]
            for rule in policy.rules
        ],
        right=["age", "a session"],
    )
    say()
    fields({"personal": policy.personal or "none", "otherwise": "memories stay"})
