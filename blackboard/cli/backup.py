"""Commands that keep a whole board in files, and make one from them."""

from contextlib import AsyncExitStack
from datetime import datetime
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import App, Parameter

from blackboard import backup as backups
from blackboard.backup import Vault, Words
from blackboard.backup.vault import Heard
from blackboard.cli.output import clean, say, say_json, table, warn, when
from blackboard.cli.place import AGENT, HERE, WRITE_HERE, Place, WritingPlace, opened
from blackboard.errors import InvalidError, SettingsError
from blackboard.session import open_session
from blackboard.settings import Limits

Json = Annotated[bool, Parameter(name="--json")]

backup = App(
    name="backup",
    help_epilogue=(
        "Example:\n\n"
        "    blackboard backup /srv/backups/main --keep 14\n"
        "    blackboard backup receipts /srv/backups/main\n"
        "    blackboard backup verify /srv/backups/main"
    ),
)


@backup.default
async def take(
    directory: Path, /, *, keep: int | None = None, place: WritingPlace = WRITE_HERE
) -> None:
    """Back up a whole board that is in use; only what changed is written.

    Backups of one board lie in one directory. What was forgotten on the board is forgotten in the
    earlier ones as well.

    Args:
        directory: New, or that of earlier backups.
        keep: How many backups stay, this one included.
        place: The board.
    """
    if keep is not None and keep < 1:
        raise InvalidError(f"--keep {keep} would leave none; keep at least 1")
    lies = _where(directory, place)
    async with opened(place, agent=place.agent) as board:
        done = await backups.take(board.log, directory, place=lies, keep=keep)
        board.journal.audit("backup", lies)
    if place.as_json:
        say_json(msgspec.to_builtins(done))
        return
    say(
        f"backup {done.number}: {done.messages} messages up to revision {done.last}, "
        f"{done.bytes} bytes, {done.written} of them new"
    )
    if done.forgotten:
        say(f"{done.forgotten} orders to forget carried out in earlier backups")


@backup.command(
    name="receipts",
    help_epilogue="Example:\n\n    blackboard backup receipts /srv/backups/main",
)
async def receipts(directory: Path, /, *, place: Place = HERE) -> None:
    """Forget in all backups what was forgotten on the board since.

    Args:
        directory: Of the backups.
        place: The board.
    """
    async with opened(place) as board:
        carried = await backups.hear(board.log.connection, board.name, directory)
    if place.as_json:
        say_json({"forgotten": carried})
    else:
        say(f"{carried} orders to forget carried out")


@backup.command(
    name="verify", help_epilogue="Example:\n\n    blackboard backup verify /srv/backups/main"
)
def verify(directory: Path, /, *, as_json: Json = False) -> int:
    """Look at every byte of all backups.

    Args:
        directory: Of the backups.
        as_json: Print JSON.
    """
    vault = Vault(directory)
    wrong: list[str] = []
    good = 0
    known: set[str] = set()
    with vault.held():
        for number in vault.numbers():
            try:
                found = vault.check(vault.backup(number), known=known)
            except InvalidError as error:
                found = [str(error)]
            wrong += found
            good += not found
    if as_json:
        say_json({"good": good, "wrong": wrong, "files": len(known)})
    else:
        for text in wrong:
            say(clean(text))
        say(f"{good} backups are whole, {len(wrong)} files are wrong, {len(known)} were read")
    return 1 if wrong or not good else 0


@backup.command(
    name="list", help_epilogue="Example:\n\n    blackboard backup list /srv/backups/main --json"
)
def show(directory: Path, /, *, as_json: Json = False) -> None:
    """List the backups of a directory.

    Args:
        directory: Of the backups.
        as_json: Print JSON.
    """
    vault = Vault(directory)
    found = vault.backups()
    rows = [
        (
            *(one.number, one.board, when(one.at), one.last),
            *(sum(stream.messages for stream in one.streams), one.size, len(one.forgotten)),
        )
        for one in found
    ]
    heads = ("number", "board", "at", "last", "messages", "bytes", "forgotten")
    if as_json:
        say_json([dict(zip(heads, row, strict=True)) for row in rows])
        return
    table(heads, rows, right=("number", "last", "messages", "bytes", "forgotten"))
    if vault.heard is not None:
        say(f"what was forgotten is known up to {when(vault.heard.at)}")


async def restore(
    directory: Path,
    /,
    *,
    at: int | None = None,
    receipts: tuple[str, ...] = (),
    without_receipts: bool = False,
    replicas: int | None = None,
    place: Place = HERE,
) -> None:
    """Make a board from a backup, at a broker that does not have it.

    It comes back with its sequences, times, consumers and buckets, and without what was forgotten
    since: say where to learn of that. The index is built anew by itself. Keys are not in a backup.

    Args:
        directory: Of the backups.
        at: The number of the backup, as `backup list` shows it; else the newest.
        receipts: Where it stands what was forgotten since: the broker of the old board, or a
            directory with later backups; may be given several times.
        without_receipts: What was forgotten since the backups last heard of it may come back.
        replicas: Servers that shall hold the board; else as many as held it.
        place: The broker.
    """
    vault = Vault(directory)
    newest = vault.backup()
    if place.board not in (None, newest.board):
        raise InvalidError(
            f"a backup of board {newest.board!r} becomes that board again; to bring its memories "
            f"to board {place.board!r}, restore it elsewhere, then `blackboard export` and `import`"
        )
    _check_receipts(vault.heard, newest.at, receipts, without=without_receipts)
    settings = msgspec.structs.replace(place.settings(), board=newest.board)
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(
            open_session(
                settings, newest.board, AGENT, limits=Limits(), create=False, required=False
            )
        )
        words: Words | None = None
        for source in receipts:
            found = await _words(source, newest.board, place)
            if words is None:
                words = found
            else:
                words.learn(found)
        done = await backups.restore(session.connection, vault, at, words=words, replicas=replicas)
        session.desk(done.board, AGENT).journal.audit("restore", f"{directory} {done.number}")
    if place.as_json:
        say_json(msgspec.to_builtins(done))
        return
    say(
        f"board {done.board} is there again: {done.messages} messages in {done.streams} streams, "
        f"as of revision {done.last} (backup {done.number})"
    )
    if done.forgotten:
        say(f"{done.forgotten} orders to forget were carried out before")
    if without_receipts:
        warn("what was forgotten after that, and is not known here, is there again")


def _where(directory: Path, place: Place) -> str:
    return f"{place.settings().machine}:{directory.absolute()}"


def _check_receipts(
    heard: Heard | None, at: datetime, receipts: tuple[str, ...], *, without: bool
) -> None:
    if receipts or without:
        return
    known = at if heard is None else max(heard.at, at)
    raise SettingsError(
        f"what was forgotten after {when(known)} is not known here and would come back: name the "
        "broker of the old board or a later backup of it (--receipts nats://…, --receipts DIR), or "
        "say --without-receipts; nothing was restored"
    )


async def _words(source: str, board: str, place: Place) -> Words:
    if "://" not in source:
        return backups.words_of(Vault(Path(source)))
    settings = msgspec.structs.replace(place.settings(), url=source, board=board)
    async with open_session(settings, board, AGENT, limits=Limits(), create=False) as session:
        return await backups.words_at(session.connection, board)
