"""A memory as text for reading, whatever its content is."""

import calendar
import re
from collections.abc import Iterator
from datetime import UTC
from itertools import repeat
from typing import cast

from blackboard.codec import Json
from blackboard.messages import Memory

MAX_CHARS = 16_384
"""Of one memory: more than a model or a person reads at once."""


def plain(memory: Memory, limit: int = MAX_CHARS) -> str:
    """The text of a memory, at most `limit` characters; of one without, topic, kind and tags.

    Args:
        memory: With its content: a blob loaded, a light memory with the content that it shows.
        limit: Characters; what follows is left out.
    """
    if isinstance(memory.content, str):
        text = clean(memory.content, limit)
    else:
        text = clean(memory.text or "\n".join(_lines(memory.content, limit)), limit)
    return text or clean(memory.text or "", limit) or _label(memory, limit)


def day_of(memory: Memory) -> str:
    """The date as a question would say it: `happened` in its own time zone, else when stored."""
    when = memory.happened or (memory.stored and memory.stored.astimezone(UTC))
    return f"{when.day} {calendar.month_name[when.month]} {when.year}" if when else ""


def clean(text: str, limit: int) -> str:
    """A text without its ends of white space, and of valid Unicode."""
    # A lone surrogate is legal in a Python string and refused by tokenizers.
    return text[:limit].encode("utf-8", "replace").decode().strip()


def _label(memory: Memory, limit: int) -> str:
    label = " ".join([memory.topic, memory.kind, *memory.tags.values()])
    return clean(re.sub(r"[._-]+", " ", label), limit)


def _lines(content: Json, limit: int) -> Iterator[str]:
    """Each value of a JSON tree as a line, with its name, until there is text enough."""
    left = limit
    walk: list[Iterator[tuple[str, Json]]] = [iter([("", content)])]
    while walk and left > 0:
        name, value = next(walk[-1], (None, None))
        left -= 1
        if name is None:
            walk.pop()
        elif isinstance(value, dict):
            walk.append(iter(cast("dict[str, Json]", value).items()))
        elif isinstance(value, list):
            walk.append(zip(repeat(name), cast("list[Json]", value), strict=False))
        elif value is not None:
            text = value[:left] if isinstance(value, str) else str(value)
            left -= len(name) + len(text)
            yield f"{name}: {text}" if name else text
