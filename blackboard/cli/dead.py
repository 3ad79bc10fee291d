"""Commands for dead letters: what handlers gave up on."""

from collections.abc import Sequence
from typing import Annotated

import msgspec
from cyclopts import App, Parameter

from blackboard.cli.output import clean, say, say_json, table
from blackboard.cli.place import HERE, Place, opened
from blackboard.codec import Json, to_json
from blackboard.errors import InvalidError
from blackboard.runtime.dead import Letter, list_dead, retry_dead
from blackboard.subjects import check_name

dead = App(
    name="dead",
    help_epilogue="Example:\n\n    blackboard dead\n    blackboard dead retry 17 18",
)


@dead.default
async def overview(*, place: Place = HERE) -> None:
    """List what handlers gave up on; let them try again.

    Args:
        place: The board.
    """
    await show(place=place)


@dead.command(
    name="list", help_epilogue="Example:\n\n    blackboard dead list --agent merger --why"
)
async def show(
    *,
    agent: str | None = None,
    handler: str | None = None,
    why: bool = False,
    place: Place = HERE,
) -> None:
    """List the dead letters, oldest first.

    Args:
        agent: Only of this agent.
        handler: Only of this handler.
        why: Print the whole error with its traceback.
        place: The board.
    """
    _check(agent, handler)
    async with opened(place) as board:
        letters = await list_dead(board, agent, handler)
    if place.as_json:
        say_json([_tree(letter) for letter in letters])
    elif why:
        for letter in letters:
            _print_whole(letter)
    elif letters:
        _print(letters)
    else:
        say("no dead letters")


@dead.command(
    help_epilogue="Example:\n\n    blackboard dead retry 17 18\n    blackboard dead retry --all"
)
async def retry(
    *numbers: int,
    every: Annotated[bool, Parameter(name="--all")] = False,
    agent: str | None = None,
    handler: str | None = None,
    place: Place = HERE,
) -> None:
    """Have dead letters handled again; their handlers take them up when they run.

    Args:
        numbers: Which, by the numbers of the list.
        every: All of them, or all that the options below select.
        agent: Only of this agent.
        handler: Only of this handler.
        place: The board.
    """
    _check(agent, handler)
    if bool(numbers) == every:
        raise InvalidError("say which letters to retry: their numbers, or --all")
    async with opened(place) as board:
        letters = await retry_dead(
            board, list(numbers) if numbers else None, agent=agent, handler=handler
        )
    if place.as_json:
        say_json([_tree(letter) for letter in letters])
        return
    for letter in letters:
        one = letter.letter
        say(f"{letter.number}: {one.input} goes to {one.agent}--{one.handler} again")
    if not letters:
        say("no dead letters")


def _check(agent: str | None, handler: str | None) -> None:
    if agent is not None:
        check_name("--agent", agent)
    if handler is not None:
        check_name("--handler", handler)


def _tree(letter: Letter) -> dict[str, Json]:
    fields = msgspec.structs.asdict(letter.letter)
    return {"number": letter.number, "buried": letter.buried, **to_json(fields)}


def _print(letters: Sequence[Letter]) -> None:
    table(
        ["number", "time", "handler", "input", "error"],
        [
            [
                letter.number,
                letter.buried,
                f"{letter.letter.agent}--{letter.letter.handler}",
                letter.letter.input,
                letter.letter.error.partition("\n")[0][:200],
            ]
            for letter in letters
        ],
        right=["number"],
    )


def _print_whole(letter: Letter) -> None:
    one = letter.letter
    say(f"{letter.number}  {one.agent}--{one.handler}  version {one.version}  {one.input}")
    say(f"after {one.attempts} attempts: {clean(one.error)}")
    if one.chain:
        say(f"handed on by {' <- '.join(one.chain)}")
    if one.traceback:
        say(clean(one.traceback.rstrip()))
    say()
