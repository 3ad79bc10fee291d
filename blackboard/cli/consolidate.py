"""Commands for consolidation: what is due, doing it now, and taking it back."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated

import msgspec
from cyclopts import App, Parameter

from blackboard.cli.output import clean, fields, say, say_json, size, table, warn
from blackboard.cli.place import HERE, Place, opened
from blackboard.consolidator.groups import AGENT
from blackboard.consolidator.plan import Due, length, parts
from blackboard.consolidator.policy import Policy, Rules, read_rules
from blackboard.consolidator.service import Consolidator, asking
from blackboard.consolidator.telling import Told, ask
from blackboard.consolidator.undoing import undo as take_back
from blackboard.consolidator.writers import OVERHEAD_TOKENS
from blackboard.errors import InvalidError, UnavailableError
from blackboard.models import Model
from blackboard.session import Desk
from blackboard.subjects import Ref

consolidate = App(
    name="consolidate",
    help_epilogue=(
        "Example:\n\n    blackboard consolidate --dry-run\n    blackboard consolidate --now\n"
        "    blackboard consolidate undo consolidator/cases.old/0199…"
    ),
)


class Planned(msgspec.Struct):
    """A group that is due, and what condensing it would take."""

    topic: str
    session: str | None
    user: str | None
    why: str
    memories: int
    bytes: int
    tokens: int
    summaries: int
    left: int
    """Tokens of the summaries, at most."""
    sources: str
    model_tokens: int
    """That a model would take, about; 0 without one."""
    money: float


@consolidate.default
async def overview(
    *,
    now: bool = False,
    dry_run: Annotated[bool, Parameter(name="--dry-run")] = False,
    place: Place = HERE,
) -> None:
    """Condense old memories into summaries; plan it, undo it.

    Without options what is due is condensed, as the service does it all the
    time. Both may run at once. Settings are in the file that
    BLACKBOARD_CONSOLIDATE names, by topic. A plan also tells how far the
    service is, what waits there, and why.

    Args:
        now: Whatever there is two of, however young.
        dry_run: Only show what would be done, and what it would take.
        place: The board.
    """
    async with _consolidator(place) as (one, desk, rules, model):
        if dry_run:
            planned = [_planned(each, rules, model) for each in await one.plan(now=now)]
            _show(planned, await _told(desk), place, model)
            return
        done = await one.once(now=now)
    waits = list(one.waits.values())
    if place.as_json:
        say_json({"done": done, "waits": waits})
        return
    fields(
        {
            "summaries": f"{done.summaries} of {done.condensed} memories",
            "tokens": f"{done.kept} left of {done.read}",
            "retired": done.retired,
            "made again": done.remade or None,
            "model": f"{done.spent} tokens" if model is not None else "none: picked sentences",
        }
    )
    for wait in waits:
        warn(f"{clean(wait.group)} waits: {clean(wait.why)}")


@consolidate.command(
    help_epilogue="Example:\n\n    blackboard consolidate undo consolidator/cases.old/0199…"
)
async def undo(reference: str, /, *, place: Place = HERE) -> None:
    """Take a summary back: what it stands for comes back, and is not condensed again.

    Possible until the steward has deleted what was retired, which it does
    after a day.

    Args:
        reference: The summary, as recall and query show it.
        place: The board.
    """
    ref = Ref.parse(reference)
    if ref.agent != AGENT:
        raise InvalidError(f"{ref} is no summary of the consolidator; to undo a retire, undo that")
    async with opened(place, agent=AGENT) as board:
        back = await take_back(board.session.desk(board.name, AGENT), ref)
    if place.as_json:
        say_json({"ref": str(ref), "back": back})
    else:
        say(f"{back} memories are back")


@asynccontextmanager
async def _consolidator(
    place: Place,
) -> AsyncGenerator[tuple[Consolidator, Desk, Rules, Model | None]]:
    settings = place.settings()
    rules = read_rules(settings.consolidate_file)
    async with opened(place, agent=AGENT) as board, asking(settings) as model:
        desk = board.session.desk(board.name, AGENT)
        yield Consolidator(desk, rules, model), desk, rules, model


async def _told(desk: Desk) -> Told | None:
    try:
        return await ask(desk.log.connection, desk.log.board, desk.log.agent)
    except UnavailableError as error:
        warn(f"the consolidator does not answer: {clean(str(error))}")
        return None


def _planned(due: Due, rules: Rules, model: Model | None) -> Planned:
    policy = rules.of(due.key.topic)
    cut = parts(due.members, policy)
    sizes = [sum(one.tokens for one in part) for part in cut]
    left = sum(length(tokens, policy) for tokens in sizes)
    asks = model is not None and policy.model
    prompts = sum(sizes) + len(cut) * OVERHEAD_TOKENS if asks else 0
    return Planned(
        topic=due.key.topic,
        session=due.key.session,
        user=due.key.user,
        why=due.why,
        memories=len(due.members),
        bytes=sum(one.bytes for one in due.members),
        tokens=sum(sizes),
        summaries=len(cut),
        left=left,
        sources=_becomes(policy),
        model_tokens=prompts + left if asks else 0,
        money=rules.budget.price(prompts, left) if asks else 0.0,
    )


def _becomes(policy: Policy) -> str:
    return {"retire": "retired", "keep": "kept", "ttl": "left to their ttl"}[policy.sources]


def _show(planned: list[Planned], told: Told | None, place: Place, model: Model | None) -> None:
    if place.as_json:
        say_json({"due": planned, "service": told})
        return
    if planned:
        _show_plan(planned, model)
    else:
        say("nothing is due")
    say()
    say(f"service: {service_line(told)}")
    for one in told.waits if told is not None else ():
        until = "" if one.until is None else f" until {one.until:%H:%M:%S} UTC"
        say(f"  {clean(one.group)} waits{until}: {clean(one.why)}")


def service_line(told: Told | None) -> str:
    """How far the running consolidator is, in a line."""
    if told is None:
        return "no consolidator runs (`blackboard up` has one)"
    if told.looked is None:
        return "reads the board"
    budget = f"{told.model} with {told.budget}" if told.model else None
    undone = (
        f"{told.undone} memories left alone since they were taken back" if told.undone else None
    )
    groups = "1 group waits" if told.waiting == 1 else f"{told.waiting} groups wait"
    words = [groups, undone, budget]
    return ", ".join(clean(word) for word in words if word)


def _show_plan(planned: list[Planned], model: Model | None) -> None:
    names = ["memories", "bytes", "tokens", "summaries", "left"]
    columns = ["topic", "session", "user", "why", *names, "sources"]
    table(
        columns,
        [
            [getattr(one, name) if name != "bytes" else size(one.bytes) for name in columns]
            for one in planned
        ],
        right=names,
    )
    say()
    cost = sum(one.model_tokens for one in planned)
    money = sum(one.money for one in planned)
    by = "no model: sentences are picked" if model is None else f"{model.name}: {cost} tokens"
    say(by + (f", {money:.2f}" if money else ""))
