"""The outline of a team's report: which sections it is made of, most relevant first.

It lies among the summaries, so the merger's `gather` sees it as one more part, and "complete" can
be decided from the parts alone: every section of the outline has its summary, of exactly that
text. A report is therefore always of one state of the documents, however summaries and outline
overtake each other.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from blackboard import Memory

KIND = "outline"


@dataclass(frozen=True, slots=True)
class Entry:
    """One section of the report; the fields are those of the section."""

    key: str
    document: str
    heading: str
    digest: str


@dataclass(frozen=True, slots=True)
class Outline:
    """What a team's report is made of.

    Attributes:
        question: What the team was asked.
        sections: Most relevant document first, each in its own order.
        left_out: Sections for which there was no room.
    """

    question: str
    sections: tuple[Entry, ...]
    left_out: int = 0


def key(team: str) -> str:
    """The key of a team's outline among its summaries."""
    return f"outline-{team}"


def tags(entry: Entry) -> dict[str, str]:
    """What a section says about itself, and its summary after it."""
    return {
        "section": entry.key,
        "document": entry.document,
        "heading": entry.heading,
        "digest": entry.digest,
    }


def parse(content: Any) -> Outline:
    """Read an outline's content."""
    tree = cast("dict[str, Any]", content)
    return Outline(
        question=str(tree["question"]),
        sections=tuple(
            Entry(*(str(row[name]) for name in ("key", "document", "heading", "digest")))
            for row in cast("list[dict[str, Any]]", tree["sections"])
        ),
        left_out=int(tree.get("left_out", 0)),
    )


def find(parts: Iterable[Memory]) -> Outline | None:
    """Return the outline among the parts; None when it did not arrive yet."""
    for part in parts:
        if part.kind == KIND:
            return parse(part.content)
    return None


def complete(parts: Sequence[Memory]) -> bool:
    """Whether every section of the outline has the summary of its text."""
    outline = find(parts)
    if outline is None:
        return False
    have = {(part.tags.get("section"), part.tags.get("digest")) for part in parts}
    return all((entry.key, entry.digest) in have for entry in outline.sections)


def compose(parts: Sequence[Memory]) -> str:
    """Write the report; the same parts in any order give the same text."""
    outline = find(parts)
    if outline is None:
        return ""
    summaries = {part.tags["digest"]: part for part in parts if "digest" in part.tags}
    blocks = [f"# {outline.question}"]
    written: set[str] = set()
    for entry in outline.sections:
        if entry.digest not in written:  # two documents may hold the same section
            written.add(entry.digest)
            text = str(summaries[entry.digest].content).strip()
            blocks.append(f"## {entry.document}: {entry.heading}\n\n{text}")
    return "\n\n".join(blocks) + "\n"
