"""What commands print: plain text that other programs can read, tables and colours for people.

Colours and frames appear on a terminal only. Content comes from other agents, so control characters
in it are shown, not sent: they could otherwise rewrite what the terminal shows.
"""

import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import msgspec

from blackboard.codec import Json, to_json
from blackboard.explain import Spent
from blackboard.messages import Memory

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
PREVIEW = 160
"""Characters of content in one line, when it does not go to a terminal."""


def say(text: str = "") -> None:
    """Print a line and flush: what is piped shall arrive when it happens."""
    print(text, flush=True)  # noqa: T201


def warn(text: str) -> None:
    """Print a line for the person, on standard error."""
    print(text, file=sys.stderr, flush=True)  # noqa: T201


def say_json(value: Json, *, line: bool = False) -> None:
    """Print a value as JSON: indented on a terminal, else, or with `line`, on one line."""
    body = msgspec.json.encode(to_json(value))
    if not line and sys.stdout.isatty():
        body = msgspec.json.format(body, indent=2)
    say(body.decode())


def table(
    columns: Sequence[str], rows: Sequence[Sequence[object]], *, right: Sequence[str] = ()
) -> None:
    """Print rows under column heads: framed on a terminal, else aligned by spaces.

    Args:
        columns: The heads.
        rows: As many cells each; the last one may be long.
        right: The columns of numbers.
    """
    texts = [[clean(_cell(cell)) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _framed(columns, texts, right)
        return
    widths = [
        max([len(head), *(len(row[place]) for row in texts)]) for place, head in enumerate(columns)
    ]
    for row in [list(columns), *texts]:
        cells = [
            cell.rjust(width) if head in right else cell.ljust(width)
            for cell, width, head in zip(row, widths, columns, strict=True)
        ]
        say("  ".join(cells).rstrip())


def _framed(columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str]) -> None:
    from rich import box  # noqa: PLC0415 - loaded for a terminal only
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    framed = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for head in columns:
        framed.add_column(head, justify="right" if head in right else "left", overflow="fold")
    for row in rows:
        framed.add_row(*(Text(cell) for cell in row))
    Console().print(framed)


def fields(pairs: Mapping[str, object]) -> None:
    """Print names and values, aligned; those without a value are left out."""
    shown = {name: _cell(value) for name, value in pairs.items() if value not in (None, "", (), {})}
    width = max(map(len, shown), default=0)
    for name, value in shown.items():
        # One line each: what others wrote must not pass for a field of its own.
        say(f"{name.ljust(width)}  {clean(value).replace(chr(10), chr(92) + 'n')}")


def _cell(value: object) -> str:
    if isinstance(value, datetime):
        return when(value)
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, Mapping):
        return " ".join(f"{name}={item}" for name, item in value.items())  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, tuple | list):
        return " ".join(map(str, value))  # pyright: ignore[reportUnknownArgumentType]
    return "" if value is None else str(value)


def clean(text: str) -> str:
    """The text with control characters, but for line breaks and tabs, shown as escapes."""
    return _CONTROL.sub(lambda found: ascii(found.group())[1:-1], text)


def when(moment: datetime | None) -> str:
    """A time, UTC, to the millisecond."""
    if moment is None:
        return ""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def size(count: int) -> str:
    """Bytes for people."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError("unreachable")


def as_tree(memory: Memory) -> dict[str, Json]:
    """A memory as JSON: the fields that are set, and the reference."""
    tree = to_json(memory)
    tree.pop("delivery", None)  # of the reader's own consumer: says nothing about the memory
    if memory.cost is not None:
        tree["cost"] = msgspec.structs.asdict(memory.cost)
    return {
        "ref": str(memory.ref),
        "revision": memory.revision,
        "content": None,
        "kind": memory.kind,
        **tree,
    }


def line(memory: Memory) -> str:
    """A memory on one line: time, pinned reference, kind, the beginning of its content."""
    head = f"{when(memory.stored)}  {memory.pinned}  "
    if memory.gone is not None:
        return f"{head}gone: {memory.gone}{f' ({clean(memory.reason)})' if memory.reason else ''}"
    content = memory.content
    body = content if isinstance(content, str) else msgspec.json.encode(content).decode()
    head += f"{clean(memory.kind)}  "
    room = PREVIEW
    if sys.stdout.isatty():
        room = max(20, shutil.get_terminal_size().columns - len(head))
    flat = clean(" ".join(body[: room * 8].split()))
    return head + (flat if len(flat) <= room else flat[: room - 1] + "…")


def show(memory: Memory) -> None:
    """Print a memory for a person: its fields, an empty line, its content."""
    say(str(memory.pinned))
    fields(
        {
            "kind": memory.kind,
            "stored": memory.stored,
            "agent": memory.agent,
            "access": memory.access,
            "session": memory.session,
            "user": memory.user,
            "tags": memory.tags,
            "priority": None if memory.priority == 0.5 else memory.priority,
            "happened": memory.happened,
            "expires": memory.expires,
            "shows": memory.content_of,
            "sources": memory.sources,
            "links": memory.links,
            "cost": None if memory.cost is None else Spent.of([memory.cost]),
            "cause": memory.cause,
            "hops": memory.hops or None,
            "origin": memory.origin,
            "trace": memory.trace,
        }
    )
    say()
    content = memory.content
    if isinstance(content, str):
        say(clean(content))
    else:
        say(clean(msgspec.json.format(msgspec.json.encode(content), indent=2).decode()))
