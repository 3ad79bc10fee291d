"""The edit of the last act: one line of one document, in the demo's own copy."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from blackboard.demo.documents import Document

MARK = "(changed by the demo)"
_LEAST_WORDS = 4
_RULE = re.compile(r"\s*([^\w\s])\1{2,}\s*\Z")
_CODE = re.compile(r'[][(){}=*"]')
_NO_PROSE = re.compile(r"\s*(#|@|```|~~~|(async\s+)?def\s|class\s|import\s|from\s)")


@dataclass(frozen=True, slots=True)
class Edit:
    """One line changed.

    Attributes:
        document: Name of the document.
        number: Of the line, counted from 1.
        line: What it said.
        text: The whole document afterwards.
    """

    document: str
    number: int
    line: str
    text: str


def choose(documents: Iterable[Document], readers: Mapping[str, int], teams: int) -> Edit | None:
    """Choose a line of the document that most teams read, but best not all of them.

    A report that does not use the document can then be seen to stay as it is.

    Args:
        documents: All of them.
        readers: How many teams read each document, by name.
        teams: How many teams there are.

    Returns:
        The edit; None when no document that is read has a line of prose.
    """
    read = [document for document in documents if readers.get(document.name)]

    def order(document: Document) -> tuple[bool, int, str]:
        count = readers[document.name]
        return count == teams, -count, document.name

    for document in sorted(read, key=order):
        lines = document.text.split("\n")
        numbers = [number for number in range(len(lines)) if is_prose(lines, number)]
        plain = [number for number in numbers if not _CODE.search(lines[number])]
        numbers = plain or numbers
        if numbers:
            chosen = numbers[len(numbers) // 2]
            line = lines[chosen]
            lines[chosen] = f"{line.rstrip()} {MARK}"
            return Edit(document.name, chosen + 1, line, "\n".join(lines))
    return None


def is_prose(lines: list[str], number: int) -> bool:
    """Whether a line is prose within a section, so that changing it moves no boundary."""
    line = lines[number]
    after = lines[number + 1] if number + 1 < len(lines) else ""
    return (
        len(re.findall(r"[^\W\d_]+", line)) >= _LEAST_WORDS
        and not _NO_PROSE.match(line)
        and not _RULE.match(after)
    )
