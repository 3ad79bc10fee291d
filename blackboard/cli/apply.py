"""`blackboard apply`: brings a board to its settings, and says what it could not change."""

import re

import msgspec

from blackboard.alteration import Change, apply as apply_limits
from blackboard.cli.output import say, say_json, table, warn
from blackboard.cli.place import HERE, Place, opened
from blackboard.errors import InvalidError
from blackboard.layout import limits_of

_SIZE = re.compile(r"(\d{1,18})(B|KiB|MiB|GiB|TiB)?")
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


async def apply(
    *,
    replicas: int | None = None,
    history: int | None = None,
    consumers: int | None = None,
    memory_bytes: str | None = None,
    blob_bytes: str | None = None,
    audit_bytes: str | None = None,
    spans_bytes: str | None = None,
    dead_bytes: str | None = None,
    dry_run: bool = False,
    place: Place = HERE,
) -> int:
    """Bring a board to other limits, or give it replicas, without loss.

    What is not named stays as it is; settings that somebody changed behind the
    board's back are set right again. What would lose something stored is
    refused. Sizes are like 512MiB or 8GiB. A board that is given its first
    replicas stays in use; until all who read it know, that takes half a minute.

    Args:
        replicas: Servers that hold the board: 1, 3 or 5.
        history: Revisions kept of a memory.
        consumers: Readers and handlers that a stream may have at once.
        memory_bytes: Room for memories.
        blob_bytes: Room for content above 256 KiB.
        audit_bytes: Room for the audit.
        spans_bytes: Room for traces.
        dead_bytes: Room for what handlers gave up on.
        dry_run: Only say what would be done.
        place: The board.

    Returns:
        The exit code: 1 when something could not be changed.
    """
    given = {
        "replicas": replicas,
        "history": history,
        "consumers": consumers,
        "memory_bytes": _bytes(memory_bytes, "--memory-bytes"),
        "blob_bytes": _bytes(blob_bytes, "--blob-bytes"),
        "audit_bytes": _bytes(audit_bytes, "--audit-bytes"),
        "spans_bytes": _bytes(spans_bytes, "--spans-bytes"),
        "dead_bytes": _bytes(dead_bytes, "--dead-bytes"),
    }
    named = {name: value for name, value in given.items() if value is not None}
    async with opened(place) as board:
        connection = board.session.connection
        before = await limits_of(connection, board.name)
        limits = msgspec.structs.replace(before, **named)
        if limits.replicas > before.replicas == 1 and not dry_run:
            warn("first everybody who reads the board has to notice; this takes half a minute")
        changes = await apply_limits(connection, board.name, limits, dry_run=dry_run)
    if place.as_json:
        say_json(changes)
    elif changes:
        table(
            ["stream", "setting", "before", "after", "", ""],
            [
                [one.stream, one.setting, one.before, one.after, one.state, one.why]
                for one in changes
            ],
        )
    else:
        say("everything is as it should be")
    return 1 if any(_is_refused(one) for one in changes) else 0


def _is_refused(change: Change) -> bool:
    return change.state == "refused"


def _bytes(text: str | None, option: str) -> int | None:
    """Read a size.

    Raises:
        InvalidError: It is none.
    """
    if text is None:
        return None
    found = _SIZE.fullmatch(text)
    if found is None:
        raise InvalidError(f"{option} {text!r} is no size; write one like 8GiB")
    return int(found[1]) * 1024 ** _UNITS.index(found[2] or "B")
