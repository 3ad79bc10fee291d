"""The command that reports what a board holds about one person, and who read it."""

import sys
from contextlib import ExitStack
from pathlib import Path

import anyio.to_thread

from blackboard.cli.output import clean, fields, say, say_json, when
from blackboard.cli.place import HERE, Place, opened
from blackboard.codec import to_json
from blackboard.errors import InvalidError, SettingsError
from blackboard.files import private
from blackboard.report import Gathered, Head, gathered, recorded, write_page, write_tree

PAGE, TREE = "report.html", "report.json"
ELSEWHERE = "the JSON document (blackboard report USER --json)"


async def report(
    user: str,
    /,
    *,
    out: Path | None = None,
    html: Path | None = None,
    place: Place = HERE,
) -> None:
    """Report everything the board holds about one person, and who read it.

    Without --out, --html and --json only the numbers are shown. That a report was made is put on
    record, and a report is a copy, which receipts of what is forgotten later list.

    Args:
        user: The person, as memories name them.
        out: Write report.html and report.json into this directory.
        html: Write the page only, to this file.
        place: The board; --json alone prints the whole report as JSON.
    """
    if out is not None and html is not None:
        raise InvalidError("give one of --out, which writes the page too, and --html")
    files = {html: False} if html is not None else {}
    if out is not None:
        files = {out / PAGE: False, out / TREE: True}
    whole = place.as_json and not files
    machine = place.settings().machine
    goes = None
    if files:
        goes = " and ".join(f"{machine}:{path.absolute()}" for path in files)
    elif whole:
        goes = f"standard output on {machine}"
    async with opened(place) as board, gathered(board, user) as made:
        if out is not None:
            _prepare(out)
        await recorded(board, made.head, goes)
        if files:
            await anyio.to_thread.run_sync(_write, made, files)
        if whole:
            sys.stdout.flush()
            write_tree(made, sys.stdout.buffer)
            sys.stdout.buffer.flush()
        elif place.as_json:
            say_json(to_json(made.head))
        else:
            _show(made.head, files)


def _prepare(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(
            f"cannot make the directory {str(directory)!r} ({error.strerror}); name another"
        ) from error


def _write(made: Gathered, files: dict[Path, bool]) -> None:
    """Write all of them or none."""
    try:
        with ExitStack() as stack:
            for path, is_tree in files.items():
                file = stack.enter_context(private(path))
                if is_tree:
                    write_tree(made, file)
                else:
                    write_page(made, file, TREE if len(files) > 1 else ELSEWHERE)
    except OSError as error:
        raise SettingsError(
            f"cannot write {' and '.join(str(path) for path in files)} ({error.strerror}); "
            "make room or name another place: nothing was written"
        ) from error


def _show(head: Head, files: dict[Path, bool]) -> None:
    summary = head.summary
    fields(
        {
            "user": head.user,
            "memories": f"{summary.memories} in {summary.revisions} revisions",
            "state": summary.states,
            "topics": summary.topics,
            "written by": summary.agents,
            "labels": summary.labels,
            "first": summary.first,
            "last": summary.last,
            "derived": summary.derived,
            "accesses": summary.accesses,
            "noted": summary.noted,
            "forgotten": f"{len(head.forgotten)} orders" if head.forgotten else None,
            "copies": len(head.copies) or None,
        }
    )
    for one in summary.readers:
        times = "once" if one.times == 1 else f"{one.times} times"
        line = (
            f"  {one.agent} ({one.source}): {one.act} {times}, last {when(one.last)}, {one.outcome}"
        )
        say(clean(line))
    for note in head.notes:
        say(f"note: {clean(note)}")
    for path in files:
        say(f"written to {path}")
    if not files:
        say("all of it: --out DIRECTORY, as a page and as JSON")
