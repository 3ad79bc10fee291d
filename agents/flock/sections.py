"""Cuts a document into sections, so that editing one line moves no other boundary.

A boundary is decided by the lines beside it and nothing else: a heading (underlined, or with `#`),
in Python source a top-level `def` or `class`. A section is named after its heading, not after its
place, so that one more section before it leaves its name alone. Sections above `MAX_SECTION_CHARS`
are cut further at lines chosen by their own text, for the same reason.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

MAX_SECTION_CHARS = 32_000
"""Inside the window of a small model; the longest section of the Python reference has 25,000."""

_UNDERLINE = re.compile(r"([=\-~^*\"#+`'])\1{2,}\s*\Z")
_NUMBER_SIGNS = re.compile(r"#{1,6}\s+\S")
_FENCE = re.compile(r"\s{0,3}(```|~~~)")
_DEFINITION = re.compile(r"(async\s+def|def|class)\s+\w+")
_CUT_ONE_LINE_IN = 48


@dataclass(frozen=True, slots=True)
class Section:
    """A piece of a document that is summarised as a whole.

    Attributes:
        document: The document's name.
        heading: Its heading, or the first line of what comes before the first one.
        key: `<document>-<hash of the heading>`: the section's name on the board.
        text: Heading and body. The same text in two documents is the same work.
        digest: Hash of the text.
    """

    document: str
    heading: str
    key: str
    text: str
    digest: str


def split(document: str, text: str, *, source: bool = False) -> list[Section]:
    """Cut a document at its headings.

    Args:
        document: Its name, of letters, digits, `_` and `-`.
        text: What it says.
        source: It is Python source, where `#` begins a comment.

    Returns:
        The sections in the document's order; a heading with nothing under it is none.
    """
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    starts = _definitions(lines) if source else _headings(lines)
    edges = [0, *(start for start in starts if start), len(lines)]
    heads = set(starts)
    seen: Counter[str] = Counter()
    sections: list[Section] = []
    for begin, end in pairwise(edges):
        block = lines[begin:end]
        if begin in heads and not source and not _has_body(block):
            continue
        for heading, piece in _pieces(block):
            seen[heading] += 1
            sections.append(_section(document, heading, seen[heading], piece))
    return sections


def _section(document: str, heading: str, occurrence: int, text: str) -> Section:
    name = hashlib.sha256(f"{occurrence} {heading}".encode()).hexdigest()[:12]
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return Section(document, heading, f"{document}-{name}", text, digest)


def _headings(lines: list[str]) -> list[int]:
    starts: list[int] = []
    fenced = False
    for index, line in enumerate(lines):
        if _FENCE.match(line):
            fenced = not fenced
        if not fenced and (_NUMBER_SIGNS.match(line) or _is_underlined(lines, index)):
            starts.append(index)
    return starts


def _is_underlined(lines: list[str], index: int) -> bool:
    line = lines[index]
    return (
        bool(line.strip())
        and not line[0].isspace()
        and not _UNDERLINE.match(line)
        and (index == 0 or not lines[index - 1].strip())
        and index + 1 < len(lines)
        and _UNDERLINE.match(lines[index + 1]) is not None
    )


def _definitions(lines: list[str]) -> list[int]:
    starts: list[int] = []
    for index, line in enumerate(lines):
        if _DEFINITION.match(line):
            start = index
            while start and lines[start - 1].startswith(("@", "#")):
                start -= 1
            starts.append(start)
    return starts


def _has_body(block: list[str]) -> bool:
    body = block[2:] if len(block) > 1 and _UNDERLINE.match(block[1]) else block[1:]
    return any(line.strip() for line in body)


def _pieces(block: list[str]) -> Iterator[tuple[str, str]]:
    text = "\n".join(block).strip()
    if not text:
        return
    heading = _title(text)
    if len(text) <= MAX_SECTION_CHARS:
        yield heading, text
        return
    piece: list[str] = []
    for line in block:
        if piece and _cuts(line):
            yield from _piece(heading, piece)
            piece = []
        piece.append(line)
    yield from _piece(heading, piece)


def _piece(heading: str, lines: list[str]) -> Iterator[tuple[str, str]]:
    text = "\n".join(lines).strip()
    if text:
        first = _title(text)
        yield (heading if first == heading else f"{heading}: {first}"), text


def _cuts(line: str) -> bool:
    """Whether a too long section is cut before this line; blank and indented lines never cut."""
    if not line.strip() or line[0].isspace():
        return False
    return hashlib.sha256(line.encode()).digest()[0] % _CUT_ONE_LINE_IN == 0


def _title(text: str) -> str:
    return text.split("\n", 1)[0].strip().lstrip("#").strip()[:100]
