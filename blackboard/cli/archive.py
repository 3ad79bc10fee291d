"""Commands that move a board, or a part of it, as files."""

from pathlib import Path

import msgspec

from blackboard.archive import export as write, load as read
from blackboard.cli.output import say, say_json
from blackboard.cli.place import HERE, WRITE_HERE, Place, WritingPlace, opened
from blackboard.conditions import filter_of
from blackboard.search import Filter
from blackboard.times import parse_time


async def export(
    directory: Path,
    pattern: str = ">",
    /,
    *,
    user: tuple[str, ...] = (),
    since: str | None = None,
    until: str | None = None,
    place: Place = HERE,
) -> None:
    """Write the board, or a part of it, into a directory.

    An export that was interrupted goes on where it was, given the same arguments.

    Args:
        directory: New, or that of the same export before it was interrupted.
        pattern: Of the topics; results that what is exported shows come along.
        user: Only of this data subject; may be given several times.
        since: Stored at or after a time, or so long ago, like 24h.
        until: Stored at or before.
        place: The board.
    """
    where = filter_of(
        {
            "user": user or None,
            "since": None if since is None else parse_time(since, "--since"),
            "until": None if until is None else parse_time(until, "--until"),
        },
        None,
    )
    lies = f"{place.settings().machine}:{_absolute(directory)}"
    async with opened(place) as board:
        done = await write(
            board.log,
            directory,
            pattern=pattern,
            where=None if where == Filter() else where,
            place=lies,
        )
    if place.as_json:
        say_json(msgspec.to_builtins(done))
    else:
        again = f", {done.resumed} of them by the export before" if done.resumed else ""
        say(f"{done.lines} revisions and {done.blobs} large contents in {directory}{again}")


async def load(directory: Path, /, *, place: WritingPlace = WRITE_HERE) -> None:
    """Bring an export into a board.

    All of it is checked before anything is stored, and a second time changes nothing.

    Args:
        directory: Of the export.
        place: The board; it is made when it is not there.
    """
    async with opened(place, agent=place.agent, create=True) as board:
        done = await read(board.log, directory)
    if place.as_json:
        say_json(msgspec.to_builtins(done))
        return
    say(f"{done.stored} revisions stored, {done.there} were there")
    if done.kept:
        say(f"{done.kept} left out: the board has these memories of its own")
    if done.forgotten:
        say(f"{done.forgotten} left out: they were forgotten here")
    if done.expired:
        say(f"{done.expired} left out: their time is over")


def _absolute(directory: Path) -> Path:
    return directory.absolute()
