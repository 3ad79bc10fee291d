"""Splits text into the pieces that an extractor may pick: sentences, list items, blocks of code.

By rules alone, because a splitter that is downloaded or trained would make the pieces, and with
them the summaries, depend on the machine. A wrong split costs a little of a summary, nothing else.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

_WORD = re.compile(r"\w+")
_FENCE = re.compile(r"\s*(?:```|~~~)")
_ITEM = re.compile(r"\s*(?:[-*+•]|\d{1,3}[.)])\s+\S")
_END = re.compile(r"""[.!?…。！？]["'”’)\]]*(?:\s+(?=["'“‘(\[]*[^\sa-z])|(?<=[。！？])(?=\S))""")
_ABBREVIATION = re.compile(
    r"\b(?:(?i:e\.g|i\.e|etc|cf|vs|al|approx|fig|dr|mr|mrs|ms|prof|st|jr|sr|inc|ltd|u\.s)|[A-Z])\.$"
)
_PROSE = re.compile(r"(?:\b[a-z]{2,}[,;]?\s+){3}[a-z]", re.IGNORECASE)
_CODE_LINE = re.compile(
    r"^\s*(?:>>>|\.\.\.|\$ |#include|@\w|def |class |import |from \w+ import |return\b|"
    r"[\w.]+\s*(?:=|\+=|::=|:=|->)\s*\S|\S.*[{};\\]\s*$|.*\)\s*:?\s*$|\||\S.*?\s{3,}\S)"
)
"""Prompts, statements, grammar, brackets at the end, and the columns of a table."""


class Unit(NamedTuple):
    """A piece of text that is kept or left out as a whole."""

    text: str
    words: tuple[str, ...]
    """In lower case, in order."""
    paragraph: int
    code: bool


def words_of(text: str) -> list[str]:
    """The words of a text in lower case, digits and underscores included."""
    return _WORD.findall(text.lower())


def units_of(text: str) -> list[Unit]:
    """Split a text, in order; pieces without a word (rules, underlines) are left out."""
    units: list[Unit] = []
    for number, (lines, code) in enumerate(_paragraphs(text)):
        pieces = ["\n".join(lines)] if code else _sentences(_flow(lines))
        split = ((piece, tuple(words_of(piece))) for piece in pieces)
        units.extend(Unit(piece, words, number, code) for piece, words in split if words)
    return units


def _paragraphs(text: str) -> Iterator[tuple[list[str], bool]]:
    """Blocks between blank lines, each with whether it is code; list items stand alone."""
    for block, fenced in _blocks(text):
        if fenced or _is_code(block):
            yield block, True
            continue
        start = 0
        for place in range(1, len(block)):
            if _ITEM.match(block[place]):
                yield block[start:place], False
                start = place
        yield block[start:], False


def _blocks(text: str) -> Iterator[tuple[list[str], bool]]:
    block: list[str] = []
    fenced = False
    for line in [*text.splitlines(), ""]:
        fence = _FENCE.match(line) is not None
        blank = not line.strip()
        rule = not blank and not fence and _WORD.search(line) is None
        if fence or (not fenced and (blank or rule)):
            if block:
                yield block, fenced
            block = []
            fenced = fenced != fence
        else:
            block.append(line.rstrip())
    if block:
        yield block, fenced


def _is_code(block: list[str]) -> bool:
    """Whether most lines look like code; indentation alone says little, prose is indented too."""
    if _ITEM.match(block[0]):
        return False
    like = sum(_CODE_LINE.match(line) is not None for line in block)
    prose = sum(_PROSE.search(line) is not None for line in block)
    indented = all(line[:1].isspace() for line in block)
    return like > prose or (indented and prose == 0)


def _flow(lines: list[str]) -> str:
    """One line of prose; a word broken at a hyphen is put together again."""
    return re.sub(r"(?<=\w)-\n(?=\w)", "-", "\n".join(map(str.strip, lines))).replace("\n", " ")


def _sentences(text: str) -> Iterator[str]:
    start = 0
    for match in _END.finditer(text):
        if _ABBREVIATION.search(text[start : match.start() + 1]):
            continue
        yield text[start : match.end()].strip()
        start = match.end()
    if rest := text[start:].strip():
        yield rest
